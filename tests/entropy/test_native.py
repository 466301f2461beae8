"""The compiled kernel: the float64 reference's values and gradients, at any shape, layout, thread count and processor."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hushlm.entropy.attention import entropy_attention
from hushlm.entropy.kernels import build, choose, library, native

needs_library = pytest.mark.skipif(library.load() is None, reason="this installation has no compiled kernel")
pytestmark = needs_library

ORDERS = (None, 1, 2, 3, 5)


@pytest.fixture(params=list(build.VARIANTS))
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    functions = library.load(request.param)
    if functions is None:
        pytest.skip(f"this processor does not run {request.param}")
    monkeypatch.setattr(library, "load", lambda: functions)
    return request.param


def inputs(seed: int, B: int, T: int, S: int, E: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Queries, keys, values and a temperature, in the layout that projections leave: (B, T, H, E) seen as (B, H, T, E)."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, n, 3, E, generator=generator).transpose(1, 2) for n in (T, S, S))
    return q * scale, k, v, torch.rand(3, T, generator=generator) + 0.5


def results(kernel: str, dtype: torch.dtype, tensors: tuple[Tensor, ...], order: int | None, causal: bool, which: str) -> list[Tensor]:
    """Output, entropy and the gradients of all inputs, for a loss that weighs output, entropy or both."""
    q, k, v, t = (x.to(dtype).requires_grad_() for x in tensors)
    output, entropy_nats = entropy_attention(q, k, v, temperature=t, order=order, causal=causal, kernel=kernel)
    generator = torch.Generator().manual_seed(9)
    of_output, of_entropy = (torch.randn(x.shape, generator=generator).to(dtype) for x in (output, entropy_nats))
    loss = torch.zeros((), dtype=dtype)
    if which != "entropy":
        loss = loss + (of_output * output).sum()
    if which != "output":
        loss = loss + (of_entropy * entropy_nats).sum()
    gradients = torch.autograd.grad(loss, (q, k, v, t), materialize_grads=True)
    return [output.detach(), entropy_nats.detach(), *gradients]


def assert_close_to_reference(tensors: tuple[Tensor, ...], order: int | None, causal: bool = True, which: str = "both") -> None:
    """Errors, relative to the largest element (0.1 at least), as small as a float32 computation in plain torch leaves, or below 1e-5."""
    exact = results("reference", torch.float64, tensors, order, causal, which)
    plain = results("analytic", torch.float32, tensors, order, causal, which)
    compiled = results("native", torch.float32, tensors, order, causal, which)
    for name, x, y, z in zip(("output", "entropy", "d_q", "d_k", "d_v", "d_t"), exact, plain, compiled, strict=True):
        size = x.abs().max().clamp_min(0.1)
        error, plain_error = (float((x - other).abs().max() / size) for other in (z, y))
        assert error <= max(1e-5, 3 * plain_error), (name, error, plain_error)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", ["output", "entropy", "both"])
@pytest.mark.parametrize(("T", "S", "E"), [(1, 1, 4), (7, 9, 16), (130, 130, 64), (97, 200, 24), (100, 193, 17)])
def test_values_and_gradients_are_the_references(variant: str, order: int | None, which: str, T: int, S: int, E: int) -> None:
    assert_close_to_reference(inputs(0, 2, T, S, E), order, which=which)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [0.1, 8.0])
@pytest.mark.parametrize("causal", [True, False])
def test_flat_and_sharp_rows_and_every_key_to_every_query(variant: str, order: int | None, scale: float, causal: bool) -> None:
    assert_close_to_reference(inputs(1, 2, 70, 70, 32, scale), order, causal)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    B=st.integers(1, 3),
    T=st.integers(1, 140),
    past=st.integers(0, 80),
    E=st.integers(1, 70),
    order=st.sampled_from(ORDERS),
    causal=st.booleans(),
)
def test_any_shape(seed: int, B: int, T: int, past: int, E: int, order: int | None, causal: bool) -> None:
    assert_close_to_reference(inputs(seed, B, T, T + past, E), order, causal)


def test_fewer_keys_than_queries_without_a_mask() -> None:
    assert_close_to_reference(inputs(2, 1, 150, 3, 8), 2, causal=False)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_tied_maxima_share_the_gradient(variant: str, order: int) -> None:
    q, k, v, t = inputs(3, 2, 80, 80, 16)
    k = k.clone()
    k[:, :, 70] = k[:, :, 3]
    q = 3 * k[:, :, 3:4].expand_as(q)  # both keys are among the largest for every later row
    assert_close_to_reference((q, k, v, t), order)
    assert_close_to_reference((torch.zeros_like(q), k, v, t), order)  # every key ties


@pytest.mark.parametrize("order", [None, 2])
def test_bytes_do_not_depend_on_the_number_of_threads(order: int | None) -> None:
    tensors = inputs(4, 2, 150, 150, 32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results("native", torch.float32, tensors, order, True, "both"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


def test_any_strides_give_the_same_bytes() -> None:
    q, k, v, t = inputs(5, 2, 40, 40, 16)
    expected = results("native", torch.float32, (q, k, v, t), 2, True, "both")
    contiguous = results("native", torch.float32, (q.contiguous(), k.contiguous(), v.mT.contiguous().mT, t), 2, True, "both")
    assert all(torch.equal(x, y) for x, y in zip(expected, contiguous, strict=True))


def test_keys_shared_by_heads_may_be_expanded() -> None:
    """Grouped queries: one key and value head for all, without a copy."""
    q, k, v, t = inputs(6, 2, 33, 33, 16)
    k, v = k[:, :1], v[:, :1]
    expanded = entropy_attention(q, k.expand_as(q), v.expand_as(q), temperature=t, kernel="native")
    copied = entropy_attention(q, k.expand_as(q).contiguous(), v.expand_as(q).contiguous(), temperature=t, kernel="native")
    assert all(torch.equal(x, y) for x, y in zip(expanded, copied, strict=True))


@pytest.mark.parametrize("order", [None, 2])
def test_what_is_not_a_number_stays_so(variant: str, order: int | None) -> None:
    """A diverging run must be seen: neither the maximum nor the exponential may swallow a NaN."""
    q, k, v, _ = inputs(7, 1, 40, 40, 16)
    k = k.clone()
    k[0, 0, 20, 0] = float("nan")
    output, entropy_nats = entropy_attention(q, k, v, order=order, kernel="native")
    assert bool(output[0, 0, 20:].isnan().all())
    assert bool(entropy_nats[0, 0, 20:].isnan().all())
    assert bool(output[0, 0, :20].isfinite().all())
    assert bool(output[0, 1:].isfinite().all())


def test_keeps_nothing_of_the_size_of_the_scores() -> None:
    T = 512
    q, k, v, _ = inputs(8, 1, T, T, 16)
    kept: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        entropy_attention(q.requires_grad_(), k, v, order=2, kernel="native")
    assert kept
    assert max(x.numel() for x in kept) < T * T / 4


def test_is_chosen_where_it_can_run() -> None:
    q = torch.zeros(1, 1, 2, 4)
    assert choose(q, order=None).name == "native"
    assert choose(q, order=2).name == "native"
    assert choose(q.double(), order=None).name == "analytic"
    with pytest.raises(ValueError, match="native"):
        choose(q.double(), order=None, name="native")


@pytest.mark.parametrize(("order", "power"), [(0, False), (2, False), (2, True)])
def test_is_an_operation_that_torch_can_compile_and_differentiate(order: int, power: bool) -> None:
    q, k, v, _ = (x.requires_grad_() for x in inputs(10, 1, 6, 9, 8))
    scale = torch.rand(3, 6).requires_grad_()
    torch.library.opcheck(native._forward, (q, k, v, scale, order, power, True), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_a_compiled_graph_has_no_break() -> None:
    tensors = tuple(x.requires_grad_() for x in inputs(12, 1, 5, 5, 8))

    def loss(q: Tensor, k: Tensor, v: Tensor, t: Tensor) -> Tensor:
        output, entropy_nats = entropy_attention(q, k, v, temperature=t, order=2)
        return output.square().sum() + entropy_nats.sum()

    compiled: Any = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for x, y in zip(*(torch.autograd.grad(f(*tensors), tensors) for f in (loss, compiled)), strict=True):
        torch.testing.assert_close(x, y)


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    library.load.cache_clear()
    monkeypatch.setattr(library, "fingerprint", lambda: "another")
    try:
        with caplog.at_level(logging.WARNING, logger="hushlm"):
            found = [choose(torch.zeros(1, 1, 2, 4), order=None).name for _ in range(3)]
        assert found == ["analytic"] * 3
        assert [record.getMessage().count("install the package again") for record in caplog.records] == [1]
    finally:
        library.load.cache_clear()


def test_without_a_library_attention_is_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, t = inputs(11, 1, 20, 20, 8)
    compiled = entropy_attention(q, k, v, temperature=t)
    library.load.cache_clear()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    try:
        plain = entropy_attention(q, k, v, temperature=t)
    finally:
        library.load.cache_clear()
    for x, y in zip(compiled, plain, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_the_build_needs_a_compiler_and_leaves_the_old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "library.so"
    target.write_bytes(b"old")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.build(target) == "no C compiler was found"
    monkeypatch.setenv("CC", "false")
    assert str(build.build(target)).startswith("false failed")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_the_build_makes_a_library_of_these_sources(tmp_path: Path) -> None:
    target = tmp_path / "library.so"
    assert build.build(target) is None
    built: Any = ctypes.CDLL(str(target))
    built.hush_fingerprint.restype = ctypes.c_char_p
    assert built.hush_fingerprint().decode() == build.fingerprint()
