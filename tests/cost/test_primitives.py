"""The protocol model without an engine: published counts, invariants, and the stocks of a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.cost.constants import CalibratedConstants, Constants, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import TRANSFER_STOCK, TRIPLE_BATCH, Primitives
from hushlm.cost.stocks import Session
from hushlm.plan import ProtocolSettings
from hushlm.plan.engine_tiles import SLOTS, product_blocks, tile_product

P = Primitives(load_constants().values, ProtocolSettings())

ROUNDS = [512 * pairs for pairs in (64, 32, 16, 8, 4, 2, 1)]
"""Pairs in each round of a maximum of 128 values, in 512 rows."""

# Counted in two-process runs of this engine, steady state: (call, bytes to the server, bytes back).
COUNTED = [
    ("compare", lambda p: p.compare(16_384), 1_132_544, 215_040),
    ("compare and select", lambda p: p.compare(32_768) + p.select(32_768), 2_531_328, 696_320),
    ("product by triples", lambda p: p.multiply(1024) + p.truncate(1024), 19_456, 16_512),
    ("direct product", lambda p: p.multiply(16_384) + p.truncate(16_384), 1_400_616, 1_354_479),
    ("direct product of three batches", lambda p: p.multiply(40_000) + p.truncate(40_000), 4_173_634, 4_059_403),
    ("exponential", lambda p: p.exponential(32_768, 2), 3_689_604, 3_474_990),
    ("product with the server's", lambda p: p.multiply_private(32_768) + p.truncate(32_768), 1_613_979, 1_950_099),
    ("matrix product", lambda p: p.product_private(128, 64, 192) + p.truncate(128 * 192), 258_715, 766_144),
    ("server encrypts", lambda p: p.product_private(128, 768, 64) + p.truncate(128 * 64), 278_934, 1_110_686),
    ("head of GPT-2 small", lambda p: p.product_private(1, 768, 50_257) + p.truncate(50_257), 1_075_612, 1_786_902),
    ("four shared products", lambda p: (p.product_shared(128, 16, 128) + p.truncate(16_384)).times(4), 2_971_286, 2_782_884),
    (
        "row maximum",
        lambda p: sum((p.compare(512 * n) + p.select(512 * n) for n in (64, 32, 16, 8, 4, 2, 1)), Exchange()),
        5_023_104,
        1_381_760,
    ),
    ("reciprocal", lambda p: p.reciprocal(12), 387_692, 491_458),
]


@pytest.mark.parametrize(("name", "call", "forward", "back"), COUNTED, ids=[name for name, *_ in COUNTED])
def test_counted_calls_are_reproduced(name: str, call: Callable[[Primitives], Exchange], forward: int, back: int) -> None:
    exchange = call(P)
    assert exchange.forward_bytes == pytest.approx(forward, rel=1e-3)
    assert exchange.back_bytes == pytest.approx(back, rel=1e-3)


def test_without_one_bit_error_products_take_a_third_more() -> None:
    exact = Primitives(P.constants, replace(P.settings, one_bit_error=False))
    # Counted: exponential of 8,192 with two squarings 1,057,301 + 1,290,752 bytes.
    assert exact.exponential(8192, 2).total_bytes == pytest.approx(2_348_053, rel=0.01)
    assert exact.multiply(16_384).total_bytes > 1.3 * P.multiply(16_384).total_bytes


def test_without_packing_a_product_answers_with_a_ciphertext_a_column() -> None:
    bare = Primitives(P.constants, replace(P.settings, pack_products=False))
    # Counted: 128 x 64 x 64 without packing 209,561 + 8,295,341 bytes.
    assert (bare.product_private(128, 64, 64) + bare.truncate(8192)).total_bytes == pytest.approx(8_504_902, rel=2e-3)


@given(n=st.integers(1, 300_000), m=st.integers(1, 300_000))
@settings(deadline=None)
def test_more_elements_never_cost_less(n: int, m: int) -> None:
    small, large = sorted((n, m))
    for call in (P.compare, P.select, P.truncate, P.square, P.multiply_private):
        assert call(small).total_bytes <= call(large).total_bytes
    assert P.amortised(P.compare(small)).total_bytes >= P.compare(small).total_bytes


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_session_pays_in_refills_what_the_steady_state_spreads(sizes: list[int]) -> None:
    session = Session(P)
    calls = [P.multiply(n) + P.compare(n) + P.select(n) for n in sizes]
    paid = sum((session.run(call) for call in calls), Exchange())
    spread = sum((P.amortised(call) for call in calls), Exchange())
    triples = [n for call in calls for n in call.triples]
    # At most what is left in the stocks: a refill for each worker and sender, and the triples of the largest calls.
    left = 4 * P.constants.refill + P.triple_batch().total_bytes * (2 + sum(-(-n // TRIPLE_BATCH) for n in triples) / 2)
    assert spread.total_bytes - 4 * P.constants.refill - 1 <= paid.total_bytes <= spread.total_bytes + left


def test_a_worker_is_refilled_when_its_stock_is_used_up() -> None:
    session = Session(P)
    # Counted on 65,536 comparisons a run (two workers of 32,768, 79 transfers each): the fourth of them needs a refill.
    call = P.compare(65_536)
    refills = [session.run(call).forward_bytes - call.forward_bytes for _ in range(8)]
    expected = [(k + 1) * 32_768 * 79 // TRANSFER_STOCK - k * 32_768 * 79 // TRANSFER_STOCK for k in range(8)]
    assert refills == pytest.approx([2 * P.constants.refill * count for count in expected])
    assert sum(expected) == 2


def test_exchanges_add_up_and_repeat() -> None:
    call = P.compare(5000) + P.multiply(700) + P.product_private(64, 64, 64)
    thrice = call + call + call
    repeated = call.times(3)
    for name in ("forward_bytes", "back_bytes", "forward_messages", "back_messages", "rounds", "cpu_seconds", "calls"):
        assert getattr(repeated, name) == pytest.approx(getattr(thrice, name))
    assert (repeated.forward_transfers, repeated.back_transfers) == (thrice.forward_transfers, thrice.back_transfers)
    assert repeated.triples == thrice.triples
    assert call.times(0) == Exchange()
    assert repeated.server_bytes == call.server_bytes


@given(rows=st.integers(1, 200), inner=st.integers(1, 300), outer=st.integers(1, 300), packing=st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_tiling_has_room_for_the_product(rows: int, inner: int, outer: int, packing: bool) -> None:
    tiling = tile_product(rows, inner, outer, packing)
    assert tiling.requests * SLOTS >= inner * (rows if tiling.left_encrypts else outer)
    assert tiling.plaintexts >= tiling.requests
    assert tiling.responses * SLOTS >= rows * outer
    assert tiling.multiplications >= max(tiling.plaintexts, 1)
    assert (tiling.kept is None) == (tiling.key_switches > 0)


@given(rows=st.integers(1, 300), inner=st.integers(1, 60_000), outer=st.integers(1, 60_000))
@settings(deadline=None, max_examples=60)
def test_split_products_cover_the_product_once(rows: int, inner: int, outer: int) -> None:
    assert sum(r * i * o for r, i, o in product_blocks(rows, inner, outer)) == rows * inner * outer


def test_the_model_is_linear_in_its_constants() -> None:
    doubled = Primitives(
        Constants(**{name: 2 * value for name, value in vars(P.constants).items()}),
        P.settings,
    )
    for call in (lambda p: p.reciprocal(300), lambda p: p.product_shared(16, 64, 48), lambda p: p.exponential(70_000, 3)):
        assert call(doubled).total_bytes == pytest.approx(2 * call(P).total_bytes)
        assert call(doubled).cpu_seconds == pytest.approx(2 * call(P).cpu_seconds)


def test_packaged_constants_fit_their_micro_runs() -> None:
    calibrated = load_constants()
    assert calibrated.engine == "Cheetah (SPU 0.9.5)"
    assert len(calibrated.residuals) > 20
    assert max(abs(residual.relative) for residual in calibrated.residuals) < 1e-3
    assert CalibratedConstants.from_json(calibrated.to_json()) == calibrated


def test_constants_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(load_constants().to_json().replace('"compare_forward"', '"compare_up"'))
    with pytest.raises(ValueError, match="compare_"):
        load_constants(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="calibrate"):
        load_constants(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_constants(tmp_path / "absent.json")
