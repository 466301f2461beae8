"""Names of architectures."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hushlm.architectures import KERNEL_ORDERS, REGISTRY, STATIC_NORM_LAYERS, Architecture, Blocks, FeedForward, Norm, Temperature, parse

PAPER = [
    "SM+LN+G",
    "SM+LN+R",
    "SM+LN",
    "SM+G",
    "SM+R",
    "SM",
    "SM+WNorm(QK)",
    "SM+SNorm(FFN)",
    "SM+WNorm(QKVO+FFN)",
    "SM+ScFFN",
    "SM+ScFuFFN",
    "SM(t)+ScFuFFN",
    "EReg(SM(t)+ScFuFFN)",
]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    norm = draw(st.sampled_from(Norm))
    feed_forward = draw(st.sampled_from(FeedForward))
    assume(not (norm in (Norm.LAYER, Norm.RMS) and feed_forward.is_scaled))
    order = draw(st.sampled_from([None, *KERNEL_ORDERS]))
    return Architecture(
        kernel_order=order,
        power=order is not None and draw(st.booleans()),
        query_key_norm=norm in (Norm.LAYER, Norm.RMS) and draw(st.booleans()),
        temperature=draw(st.sampled_from(Temperature)),
        norm=norm,
        norm_layers=draw(st.sampled_from(STATIC_NORM_LAYERS)) if norm in (Norm.WEIGHT, Norm.SPECTRAL) else "",
        feed_forward=feed_forward,
        removed_ffns=draw(st.integers(0, 40)),
        entropy_regularised=draw(st.booleans()),
        blocks=draw(st.sampled_from(Blocks)),
        final_norm=norm not in (Norm.LAYER, Norm.RMS) and draw(st.booleans()),
    )


@given(architectures())
def test_every_name_parses_to_what_was_printed(architecture: Architecture) -> None:
    assert parse(str(architecture)) == architecture


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_names_are_ours(name: str) -> None:
    assert str(parse(f" {name} ")) == name
    assert parse(name) in REGISTRY


def test_the_registry_has_every_name_once() -> None:
    assert len({str(architecture) for architecture in REGISTRY}) == len(REGISTRY)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown architecture 'SM\+LN\+Gelu'\. Did you mean .*SM\+LN\+G"):
        parse("SM+LN+Gelu")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sm",
        "SM4+R",
        "PS+R",
        "PS4+R",
        "SM()+LN",
        "PS2(qk,t)+LN",
        "PS2(qk)+R",
        "SM(qk)+WNorm(QK)",
        "SM0",
        "SM+WNorm",
        "SM+WNorm(V)",
        "SM+LN+ScFFN",
        "EReg(SM",
        "SM+R+G",
        "EReg(EReg(SM))",
        "NeoX(EReg(SM))",
        "NeoX(NeoX(SM))",
        "NeoX()",
        "SM+LN+LNf",
        "SM+R+LNf",
        "LNf",
    ],
)
def test_meaningless_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w{3}"):
        parse(name)


def test_more_removed_ffns_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="only 4 layers"):
        parse("SM+ScFuFFN(6 deepest FFNs removed)").has_ffn(0, 4)


def test_removed_ffns_are_the_deepest() -> None:
    architecture = parse("SM+ScFuFFN(2 deepest FFNs removed)")
    assert [architecture.has_ffn(layer, 5) for layer in range(5)] == [True, True, True, False, False]
