"""What a session of prepared answers needs before it begins: threads and keys by what is computed, predicted and counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hushlm.architectures import parse
from hushlm.calibration.both_parties import stream_both
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_set_up
from hushlm.cost.prepared.calls import calls_with
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.prepared.session import answer_plans, answer_threads, multiplies_by_engine
from hushlm.plan import HUSH, Plan, Reveal
from hushlm.plan.protocol_settings import Transfers
from hushlm.private.engine import Engine, EngineSettings, Party, Traffic
from hushlm.shapes import GPT2_SMALL
from tests.private.models import SMALL
from tests.private.prepared.answers import exported


def _plans(name: str, shape: ModelShape, prompt: int = 20, reveal: Reveal | None = None) -> tuple[Plan, ...]:
    return answer_plans(parse(name), shape, prompt, 3, reveal, HUSH)


def test_a_small_answer_takes_one_thread_and_a_large_one_all_that_there_are() -> None:
    assert answer_threads(_plans("SM2+R", SMALL), 2) == 1
    assert answer_threads(_plans("SM2+R", GPT2_SMALL, 120), 2) == 2
    assert answer_threads(_plans("SM2+R", GPT2_SMALL, 120), 16, WAN) == 16


def test_a_model_without_comparisons_takes_one_thread_at_any_size() -> None:
    assert answer_threads(_plans("PS3(th,qk)+LN+B", GPT2_SMALL, 120), 2) == 1


@pytest.mark.parametrize(
    ("name", "network", "multiplies"),
    [("SM2+R", None, False), ("SM2+LN+R", None, True), ("SM2+LN+R", LAN, True), ("SM2+LN+R", WAN, False), ("SM2+ScFuFFN", WAN, False)],
)
def test_the_engine_multiplies_only_for_its_own_inverse_roots(name: str, network: object, multiplies: bool) -> None:
    assert multiplies_by_engine(_plans(name, SMALL), network) is multiplies  # type: ignore[arg-type]


def test_the_engine_multiplies_for_what_has_no_prepared_form() -> None:
    assert multiplies_by_engine(_plans("SM2+R", SMALL, reveal=Reveal(SMALL.vocabulary, "topk", 4)))


def _set_ups(engine: Engine) -> Iterator[Traffic]:
    from hushlm.private.prepared.desk import Desk
    from hushlm.private.prepared.generator import PreparedGenerator

    _, export = exported("SM2+R")
    desk = Desk(engine)
    generator = PreparedGenerator(desk, export.description, None if desk.is_client else export.weights)
    yield generator.set_up_answer(products=engine.settings.threads == 1)
    if engine.settings.threads != 1:
        yield generator.set_up_preparing()


@pytest.mark.two_party
@pytest.mark.parametrize("transfers", ["ferret", "softspoken"])
@pytest.mark.parametrize("threads", [1, 2])
def test_set_up_is_as_predicted(threads: int, transfers: Transfers) -> None:
    """Bytes to 0.5% (ciphertexts vary with their random content), messages exactly; keys are made once, by whichever needs them first."""
    pytest.importorskip("spu")
    settings = replace(EngineSettings(), threads=threads, transfers=transfers)
    prices = calls_with(load_constants().values, load_online_constants().values, settings)
    predicted: list[Exchange] = (
        [prices.set_up_answer(products=True)] if threads == 1 else [prices.set_up_answer(False), prices.set_up_preparing()]
    )
    counted = [client for client, _ in stream_both(_set_ups, (), settings)]
    for expected, found in zip(predicted, counted, strict=True):
        assert expected.total_bytes == pytest.approx(found.total_bytes, rel=0.005)
        assert (expected.forward_messages, expected.back_messages) == (found.sent_messages, found.received_messages)


def _plain_set_up(engine: Engine) -> Iterator[Traffic]:
    from hushlm.private.program.generate import PrivateGenerator

    _, export = exported("SM2+R")
    yield PrivateGenerator(engine, export.description, export.weights if engine.party is Party.SERVER else None).set_up()


@pytest.mark.two_party
@pytest.mark.parametrize("transfers", ["ferret", "softspoken"])
def test_set_up_without_prepared_material_is_as_predicted(transfers: Transfers) -> None:
    """Bytes to 0.5%, messages exactly, as above; two threads are among the counted numbers of tests/cost/test_transfers.py."""
    pytest.importorskip("spu")
    settings = replace(exported("SM2+R")[1].description.engine, threads=1, transfers=transfers)
    ((counted, _),) = stream_both(_plain_set_up, (), settings)
    expected = price_set_up(settings)
    assert expected.total_bytes == pytest.approx(counted.total_bytes, rel=0.005)
    assert (expected.forward_messages, expected.back_messages) == (counted.sent_messages, counted.received_messages)
