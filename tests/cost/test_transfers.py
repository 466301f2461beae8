"""Oblivious transfers that are asked for, without an engine: calls as they were counted, and which kind a session takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN, Network, price_generation, price_prepared
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_set_up
from hushlm.cost.prepared import price_prepared_passes
from hushlm.cost.prepared.session import answer_plans, session_settings, session_transfers
from hushlm.cost.primitives import Primitives
from hushlm.cost.transfers import asking, packed_bytes
from hushlm.plan import HUSH, Plan, ProtocolSettings, Reveal
from hushlm.plan.protocol_settings import SMALL_RING_BITS, Transfers
from hushlm.shapes import GPT2_SMALL
from tests.private.models import SMALL

BOX = ModelShape(layers=3, heads=6, width=384, context=256, vocabulary=4096)
NEAR = Network("near", 0.2e-3, 1e9)


def primitives(threads: int, ring_bits: int = 64) -> Primitives:
    return Primitives(load_constants().values, ProtocolSettings(threads=threads, transfers="softspoken"), ring_bits)


CALLS: dict[str, Callable[[int, int], Exchange]] = {
    "compare32": lambda threads, n: primitives(threads, SMALL_RING_BITS).compare(n),
    "and32": lambda threads, n: primitives(threads, 32).compare(n).times(2) + primitives(threads, 32).both(n),
    "where64": lambda threads, n: primitives(threads).select(n),
    "truncate": lambda threads, n: primitives(threads).truncate(n),
    "max64": lambda threads, n: primitives(threads).compare(n) + primitives(threads).select(n),
}

# Counted between two processes: (threads, call, elements, (bytes to the server and back, messages to the server and back)).
COUNTED = [
    (1, "compare32", 1, (5200, 6192, 18, 18)),
    (1, "where64", 1, (1032, 1032, 2, 2)),
    (1, "truncate", 1, (8, 1024, 1, 1)),
    (1, "max64", 1, (8400, 9360, 27, 27)),
    (1, "compare32", 100, (14728, 38152, 24, 49)),
    (1, "where64", 100, (2848, 2848, 3, 3)),
    (1, "truncate", 100, (304, 2048, 1, 2)),
    (1, "max64", 100, (29264, 75088, 40, 90)),
    (1, "and32", 1000, (200912, 650960, 157, 279)),
    (1, "compare32", 2049, (190032, 649776, 130, 138)),
    (1, "where64", 2049, (33800, 33800, 18, 18)),
    (1, "truncate", 2049, (6152, 17408, 1, 17)),
    (1, "max64", 2049, (428496, 1346960, 220, 236)),
    (1, "compare32", 20000, (1809352, 6290376, 166, 252)),
    (1, "where64", 20000, (320768, 320768, 32, 32)),
    (1, "truncate", 20000, (60000, 160768, 1, 31)),
    (1, "max64", 20000, (4109736, 13070760, 259, 430)),
    (2, "compare32", 1, (5200, 6192, 18, 18)),
    (2, "where64", 1, (1032, 1032, 2, 2)),
    (2, "truncate", 1, (8, 1024, 1, 1)),
    (2, "max64", 1, (8400, 9360, 27, 27)),
    (2, "compare32", 100, (14728, 38152, 24, 49)),
    (2, "where64", 100, (2848, 2848, 3, 3)),
    (2, "truncate", 100, (304, 2048, 1, 2)),
    (2, "max64", 100, (29264, 75088, 40, 90)),
    (2, "and32", 1000, (200912, 650960, 157, 279)),
    (2, "compare32", 2049, (195152, 655920, 148, 156)),
    (2, "where64", 2049, (34824, 34824, 20, 20)),
    (2, "truncate", 2049, (6152, 18432, 2, 18)),
    (2, "max64", 2049, (436688, 1356176, 310, 326)),
    (2, "compare32", 20000, (1813496, 6295544, 246, 332)),
    (2, "where64", 20000, (321792, 321792, 34, 34)),
    (2, "truncate", 20000, (60000, 161792, 2, 32)),
    (2, "max64", 20000, (4116992, 13079040, 410, 582)),
]


@pytest.mark.parametrize(("threads", "call", "n", "counted"), COUNTED)
def test_counted_calls_are_reproduced(threads: int, call: str, n: int, counted: tuple[int, int, int, int]) -> None:
    exchange = CALLS[call](threads, n)
    assert (round(exchange.forward_bytes), round(exchange.back_bytes)) == pytest.approx(counted[:2], rel=2e-5)
    assert (exchange.forward_messages, exchange.back_messages) == counted[2:]
    assert not exchange.forward_transfers, "nothing is drawn from a stock"
    assert not exchange.back_transfers


def test_a_worker_starts_with_few_bytes() -> None:
    # Counted: the first comparison, selection and truncation of 64 numbers in a session of one thread.
    first = CALLS["compare32"](1, 64) + CALLS["where64"](1, 64) + CALLS["truncate"](1, 64)
    started = first + primitives(1).first_transfers() + primitives(1, SMALL_RING_BITS).first_transfers()
    assert (round(started.forward_bytes), round(started.back_bytes)) == (26_512, 42_704)
    assert (started.forward_messages, started.back_messages) == (28, 44)


@given(st.integers(1, 3_000_000))
@settings(deadline=None)
def test_an_ask_is_eight_bytes_a_transfer_and_some_spare_ones(transfers: int) -> None:
    moved, messages = asking(transfers)
    assert 8 * (transfers + 64) <= moved < 8 * (transfers + 64 + 128)
    assert transfers // 8192 < messages <= transfers // 8192 + 65


@pytest.mark.parametrize(("n", "bits", "ring_bits", "expected"), [(7, 18, 64, 16), (8, 18, 64, 24), (100, 18, 64, 304), (3, 32, 32, 12)])
def test_shifts_are_packed_eight_at_a_time(n: int, bits: int, ring_bits: int, expected: int) -> None:
    assert packed_bytes(n, bits, ring_bits) == expected


@pytest.mark.parametrize(
    ("transfers", "threads", "counted"),
    [
        ("softspoken", 1, (11_517_388 + 11_546_598, 55, 87)),
        ("softspoken", 2, (12_133_539 + 13_139_507, 350, 510)),
        ("ferret", 1, (13_192_062 + 13_287_390, 51, 51)),
        ("ferret", 2, (14_894_033 + 14_836_218, 88, 88)),
    ],
)
def test_the_counted_set_up_of_a_session_without_prepared_material(
    transfers: Transfers, threads: int, counted: tuple[int, int, int]
) -> None:
    set_up = price_set_up(ProtocolSettings(exponential_squarings=2, threads=threads, transfers=transfers))
    assert set_up.total_bytes == pytest.approx(counted[0], rel=5e-4)
    assert (set_up.forward_messages, set_up.back_messages) == counted[1:]
    assert set_up.compute_seconds > 0


def plans(name: str, shape: ModelShape, prompt: int = 16, new_tokens: int = 1) -> tuple[Plan, ...]:
    return answer_plans(parse(name), shape, prompt, new_tokens, Reveal(shape.vocabulary, "token"), HUSH)


@pytest.mark.parametrize(
    ("name", "shape", "network", "prepared", "expected"),
    [
        ("PS3(th,qk)+LN+B", BOX, LAN, True, "softspoken"),
        ("PS3(th,qk)+LN+B", BOX, WAN, True, "ferret"),
        ("PS3(th,qk)+LN+B", BOX, None, True, "ferret"),
        ("SM2+R", SMALL, LAN, False, "softspoken"),
        ("SM2+R", SMALL, None, False, "ferret"),
        ("SM2+R", GPT2_SMALL, NEAR, True, "ferret"),
        ("SM2+R", GPT2_SMALL, NEAR, False, "ferret"),
    ],
)
def test_a_short_session_nearby_asks_and_a_long_or_distant_one_has_stocks(
    name: str, shape: ModelShape, network: Network | None, prepared: bool, expected: Transfers
) -> None:
    assert session_transfers(plans(name, shape), ProtocolSettings(), network, prepared) == expected


def test_more_tokens_are_worth_stocks() -> None:
    found = [session_transfers(plans("SM2+R", SMALL, 4, new), ProtocolSettings(), LAN) for new in (1, 48)]
    assert found == ["softspoken", "ferret"]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("network", [LAN, WAN])
def test_the_kind_that_is_chosen_is_the_quicker_one(monkeypatch: pytest.MonkeyPatch, prepared: bool, network: Network) -> None:
    seconds = dict[str, float]()
    for kind in ("ferret", "softspoken"):

        def fixed(plans: object, settings: ProtocolSettings, *_: object, kind: Transfers = kind, **__: object) -> ProtocolSettings:
            return replace(settings, threads=1, transfers=kind)

        asked = (parse("SM2+R"), SMALL, 9, 2)
        with monkeypatch.context() as patched:
            patched.setattr("hushlm.cost.prepared.price.session_settings", fixed)
            patched.setattr("hushlm.cost.generation.session_settings", fixed)
            if prepared:
                passes = price_prepared_passes(*asked, network=network, forms=network)
            else:
                passes = price_generation(*asked, settings=ProtocolSettings(threads=1), network=network).passes
        assert {report.transfers for report in passes} == {kind}
        seconds[kind] = passes[0].set_up.seconds + sum(report.total.seconds for report in passes)
    whole = answer_plans(parse("SM2+R"), SMALL, 9, 2, None, HUSH)
    chosen = session_settings(whole, ProtocolSettings(threads=1), network, prepared)
    assert chosen.transfers == min(seconds, key=seconds.__getitem__)


def test_prices_follow_the_choice() -> None:
    today = price_generation(parse("SM2+R"), SMALL, 9, 1, network=LAN)
    stocked = price_generation(parse("SM2+R"), SMALL, 9, 1, network=LAN, transfers="ferret")
    assert (today.passes[0].transfers, stocked.passes[0].transfers) == ("softspoken", "ferret")
    assert today.total.bytes > stocked.total.bytes
    assert today.passes[0].set_up.bytes < stocked.passes[0].set_up.bytes
    assert today.passes[0].set_up.seconds + today.total.seconds < stocked.passes[0].set_up.seconds + stocked.total.seconds
    nearby = price_prepared_passes(parse("SM2+R"), SMALL, 9, 1, network=LAN, forms=LAN)
    assert nearby[0].transfers == "softspoken"
    assert nearby[0].set_up.bytes < 100_000
    assert price_prepared(parse("SM2+R"), SMALL, 9, 1, network=LAN).passes[0].transfers == "ferret", "no network was named"
