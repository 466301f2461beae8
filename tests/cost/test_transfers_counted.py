"""Oblivious transfers that are asked for call by call: what is predicted is counted, in both rings, and in the steps of whole passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from hushlm.architectures import parse
from hushlm.calibration.both_parties import stream_both
from hushlm.calibration.counting import distinct_steps
from hushlm.config import ModelShape
from hushlm.cost.calls import Call
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.prepared.calls import OnlineCalls, calls_with
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.primitives import Primitives
from hushlm.cost.stocks import Session
from hushlm.plan import Reveal, decode_plan, prefill_plan
from hushlm.private.engine import Engine, EngineSettings, Traffic
from tests.cost.counted import WARM_ELEMENTS, count_every_run

pytestmark = [pytest.mark.two_party, pytest.mark.slow]

SIZES = (1, 7, 65, 2049)
SHAPE = ModelShape(layers=6, heads=2, width=32, context=16, vocabulary=64)


def _calls(engine: Engine) -> Iterator[Traffic]:
    import jax.numpy as jnp

    from hushlm.private.prepared.desk import Desk

    desk = Desk(engine)

    def words(n: int) -> np.ndarray:
        return np.arange(n, dtype=np.uint64)

    (bits,) = desk.small("first", lambda x: x < 0, [words(4096)])
    desk.where(bits, words(4096))
    for n in SIZES:
        desk.take_traffic()
        (bits,) = desk.small("compare", lambda x: x < 0, [words(n)])
        yield desk.take_traffic()
        desk.small("larger", lambda x: jnp.maximum(x, 5), [words(n)])
        yield desk.take_traffic()
        desk.small("and", lambda x, y: jnp.logical_and(x < y, y < 0), [words(n), words(n)])
        yield desk.take_traffic()
        desk.where(bits, words(n))
        yield desk.take_traffic()
        desk.truncate(words(n))
        yield desk.take_traffic()
        desk.program("larger", lambda x: jnp.maximum(x, 0.0), [words(n)])
        yield desk.take_traffic()


def _prices(p: OnlineCalls) -> Iterator[Exchange]:
    for n in SIZES:
        compare = p.price(Call("compare", n))
        yield compare
        yield compare + p.price(Call("select", n))
        yield compare + compare + p.price(Call("and", n))
        yield p.price(Call("select-64", n))
        yield p.price(Call("truncate", n))
        yield p.large.compare(n) + p.large.select(n)


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_in_both_rings_move_what_is_predicted(threads: int) -> None:
    """Messages exactly; bytes as well, but for the fitted bytes of a word, which are off in the fifth digit."""
    settings = replace(EngineSettings(), threads=threads, transfers="softspoken")
    prices = _prices(calls_with(load_constants().values, load_online_constants().values, settings))
    counted = [client for client, _ in stream_both(_calls, (), settings)]
    for expected, found in zip(prices, counted, strict=True):
        assert (expected.forward_messages, expected.back_messages) == (found.sent_messages, found.received_messages)
        assert (expected.forward_bytes, expected.back_bytes) == pytest.approx((found.sent_bytes, found.received_bytes), rel=2e-5, abs=0.5)


def test_steps_move_what_is_predicted() -> None:
    """As with stocks: bytes to 0.5%, because ciphertexts vary with their random content; messages exactly."""
    settings = replace(EngineSettings(), transfers="softspoken", exponential_squarings=2)
    primitives = Primitives(load_constants().values, settings)
    session = Session(primitives)
    session.run(primitives.compare(WARM_ELEMENTS) + primitives.select(WARM_ELEMENTS))
    plans = [make(parse(name), SHAPE, SHAPE.context) for name in ("SM2+LN+G", "SM2+R") for make in (prefill_plan, decode_plan)]
    plans.append(prefill_plan(parse("SM2+R"), SHAPE, SHAPE.context, Reveal(SHAPE.vocabulary, "topk", 2)))
    work, wrong = distinct_steps(plans), []
    for (_, step), runs in zip(work, count_every_run(work, settings, 2), strict=True):
        for run, predicted in ((run, session.run(price_operation(step.operation, primitives))) for run in runs):
            for counted, foretold in ((run.forward_bytes, predicted.forward_bytes), (run.back_bytes, predicted.back_bytes)):
                if abs(counted - foretold) > 200 + 0.005 * counted:
                    wrong.append(f"{step.operation}: counted {counted}, predicted {foretold:.0f} bytes")
            if (run.forward_messages, run.back_messages) != (predicted.forward_messages, predicted.back_messages):
                wrong.append(f"{step.operation}: {run.forward_messages, run.back_messages} messages, not as predicted")
    assert not wrong, "\n".join(wrong)
