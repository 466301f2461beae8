"""Power kernels between two processes, nothing prepared: answers are the model's, and what moves is what was predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.cost.counted import WARM_ELEMENTS, count_every_run
from tests.private.models import SMALL, next_logits
from tests.private.prepared.answers import exported

from hushlm.architectures import parse
from hushlm.calibration.both_parties import run_both
from hushlm.calibration.counting import distinct_steps
from hushlm.cost.constants import load_constants
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.primitives import Primitives
from hushlm.cost.stocks import Session
from hushlm.plan import Divide, PowerKernel, decode_plan, prefill_plan
from hushlm.private.engine import Engine, EngineSettings
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.generate import PrivateGenerator

pytest.importorskip("spu")
pytestmark = pytest.mark.two_party

PROMPT, TOKENS = np.random.default_rng(5).integers(0, SMALL.vocabulary, 20).tolist(), 2
ERROR = 0.02
"""Largest difference of logits from the plaintext model, in their standard deviations."""


def _answer(engine: Engine, description: ProgramDescription, weights: dict[str, Any]) -> list[np.ndarray | None]:
    client = engine.party.name == "CLIENT"
    generator = PrivateGenerator(engine, description, None if client else weights)
    answers = generator.generate(PROMPT if client else None, len(PROMPT), TOKENS, RevealPolicy(kind="logits"))
    return [answer.logits for answer in answers]


def test_todays_answers_are_the_models() -> None:
    name = "PS3(th,qk)+LN+Q"
    model, export = exported(name)
    client, server = run_both(_answer, (export.description, export.weights), export.description.engine)
    tokens = list(PROMPT)
    for logits in client:
        wanted = next_logits(model, tokens)
        assert logits is not None
        assert logits.argmax() == wanted.argmax()
        assert np.abs(logits - wanted).max() < ERROR * wanted.std()
        tokens.append(int(logits.argmax()))
    assert server == [None] * TOKENS, "the server learns nothing of the answer"


@pytest.mark.parametrize("name", ["PS2+R", "PS3(th,qk)+LN+Q"])
def test_kernels_and_divisions_move_what_was_predicted(name: str) -> None:
    """With the engine's exponential as the power, and with its squares one by one."""
    shape, settings = replace(SMALL, context=64), EngineSettings(exponential_squarings={"PS2+R": 2}.get(name, 1))
    plans = [prefill_plan(parse(name), shape, 64), decode_plan(parse(name), shape, 33)]
    work = [(plan, step) for plan, step in distinct_steps(plans) if isinstance(step.operation, PowerKernel | Divide)]
    assert len(work) >= 4
    primitives = Primitives(load_constants().values, settings)
    session = Session(primitives)
    session.run(primitives.compare(WARM_ELEMENTS) + primitives.select(WARM_ELEMENTS))
    for (_, step), runs in zip(work, count_every_run(work, settings, 1), strict=True):
        for run in runs:
            predicted = session.run(price_operation(step.operation, primitives))
            assert run.total_bytes == pytest.approx(predicted.total_bytes, rel=0.005, abs=300), step
            assert (run.forward_messages, run.back_messages) == (predicted.forward_messages, predicted.back_messages), step
