"""One of some candidates: the arg max over their logits alone, by a head that computes no others, at the predicted price."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.private.models import SMALL, arrays, next_logits, random_model

from hushlm.architectures import parse
from hushlm.calibration.both_parties import run_both
from hushlm.config import ModelShape
from hushlm.cost import price
from hushlm.cost.constants import load_constants
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.prepared.calls import calls_with
from hushlm.cost.prepared.online import online_steps
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.primitives import Primitives
from hushlm.plan import Project, ProtocolSettings, Reveal, StepName, prefill_plan
from hushlm.private.engine import Engine, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe
from hushlm.private.program.fold import fold_weights
from hushlm.private.program.generate import PrivateGenerator
from hushlm.private.program.sampling import Sampling

TINY = replace(SMALL, layers=1)
LLAMA = replace(TINY, heads=4, key_value_heads=2, explicit_ffn_width=27, rotary_share=1.0, prefix=1, norm_epsilon=1e-6)
MODELS = {"SM2+R": TINY, "Llama(SM2(th)+RMS+SwiQ)": LLAMA}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
REFILL = load_constants().values.refill


def policy(*candidates: int) -> RevealPolicy:
    return RevealPolicy(kind="candidates", candidates=candidates)


def program(name: str, shape: ModelShape) -> tuple[Any, ProgramDescription, dict[str, np.ndarray]]:
    architecture = parse(name)
    model, description = random_model(architecture, shape, spread=0.15), describe(architecture, shape)
    return model, description, fold_weights(arrays(model), architecture, shape, description.rewrites)


def candidate_sets(logits_V: np.ndarray) -> list[tuple[int, ...]]:
    """With the likeliest token of all and without it, and a choice between the two least likely."""
    order = [int(token) for token in np.argsort(-logits_V)]
    return [tuple(sorted(order[::7])), tuple(sorted(order[1::9])), tuple(sorted(order[-2:]))]


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_candidate_is_the_model_s(name: str) -> None:
    model, description, weights = program(name, MODELS[name])
    logits_V = next_logits(model, PROMPT)
    generator = PrivateGenerator(ReferenceBackend(), description, weights)
    for ids in candidate_sets(logits_V):
        (answer,) = generator.generate(PROMPT, len(PROMPT), 1, policy(*ids))
        assert (answer.token, answer.logits, answer.top) == (max(ids, key=lambda token: logits_V[token]), None, None)
    (whole,) = generator.generate(PROMPT, len(PROMPT), 1)
    assert whole.token == logits_V.argmax(), "the whole head is back"


def test_the_head_of_candidates_is_as_small_as_they_are() -> None:
    plan = prefill_plan(parse("SM2+R"), SMALL, 32, policy(3, 5, 30).operation(SMALL.vocabulary))
    head, reveal = (step.operation for step in plan.steps[-2:])
    assert isinstance(head, Project)
    assert (head.outer, reveal) == (3, Reveal(3, "token"))
    assert price(plan).total.bytes < price(prefill_plan(parse("SM2+R"), SMALL, 32)).total.bytes
    with pytest.raises(ValueError, match="33 logits cannot be computed: this model has 32"):
        prefill_plan(parse("SM2+R"), SMALL, 32, Reveal(SMALL.vocabulary + 1, "token"))


@pytest.mark.parametrize("ids", [(), (3,), (5, 3), (3, 3), (-1, 3), tuple(range(257))])
def test_candidates_are_at_least_two_and_each_once(ids: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="candidates"):
        policy(*ids)


def test_candidates_reveal_least_and_leave_nothing_to_draw_from() -> None:
    asked = policy(3, 5)
    assert str(asked) == "candidates:3,5"
    assert asked.is_within(RevealPolicy())
    assert not RevealPolicy().is_within(asked)
    with pytest.raises(ValidationError, match="candidates are not for token"):
        RevealPolicy(kind="token", candidates=(3, 5))
    with pytest.raises(ValueError, match="Sampling needs logits"):
        Sampling(temperature=1.0).chooser(asked)
    _, description, weights = program("SM2+R", SMALL)
    for ids, tokens in (((3, 5), 2), ((3, 32), 1)):
        with pytest.raises(ValueError, match=f"for one new token, not {tokens}, and must be below 32"):
            list(PrivateGenerator(ReferenceBackend(), description, weights).generate(PROMPT, len(PROMPT), tokens, policy(*ids)))


@dataclass
class Scored:
    """What one party saw of an answer: the token, what the head and the choice moved, and whether it was prepared."""

    token: int | None
    head: Traffic
    choice: Traffic
    total: Traffic


def _score(
    engine: Engine, programs: list[tuple[ProgramDescription, dict[str, np.ndarray], list[tuple[int, ...]]]], prepared: bool
) -> list[list[Scored]]:
    """Each program asked for one of each set of candidates; with `prepared` material in between for the whole vocabulary."""
    found, desk = [], Desk(engine) if prepared else None
    client = engine.party.name == "CLIENT"
    for number, (description, weights, sets) in enumerate(programs):
        mine, prompt, seen = None if client else weights, PROMPT if client else None, []
        generator: Any = PreparedGenerator(desk, description, mine) if desk else PrivateGenerator(engine, description, mine)
        if not number:
            generator.set_up()
        for ids in sets:
            materials = generator.prepare(len(PROMPT), 1)[0] if prepared else []
            (answer,) = generator.generate(*materials, prompt, len(PROMPT), 1, policy(*ids))
            moved = {step.name: step.traffic for step in answer.steps}
            seen.append(Scored(answer.token, moved[StepName.HEAD], moved[StepName.REVEAL], answer.traffic))
        found.append(seen)
    return found


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.parametrize("prepared", [False, True], ids=["computed now", "prepared"])
def test_two_parties_choose_the_model_s_candidate_at_the_predicted_price(prepared: bool) -> None:
    pytest.importorskip("spu")
    models = [program(name, shape) for name, shape in list(MODELS.items())[int(prepared) :]]
    logits = [next_logits(model, PROMPT) for model, _, _ in models]
    sets = [candidate_sets(logits_V)[: 1 if prepared else 2] for logits_V in logits]
    programs = [(description, weights, ids) for (_, description, weights), ids in zip(models, sets, strict=True)]
    client, server = run_both(_score, (programs, prepared), programs[0][0].engine)
    for logits_V, (description, _, asked), seen, theirs in zip(logits, programs, client, server, strict=True):
        assert [each.token for each in seen] == [max(ids, key=lambda token: logits_V[token]) for ids in asked]
        assert [each.token for each in theirs] == [None] * len(asked)
        primitives = Primitives(load_constants().values, description.engine)
        for ids, each in zip(asked, seen, strict=True):
            plan = prefill_plan(
                description.parsed_architecture, description.shape, 32, policy(*ids).operation(description.shape.vocabulary)
            )
            if prepared:  # the whole pass, opening included, from material for the whole vocabulary
                calls = calls_with(load_constants().values, load_online_constants().values, ProtocolSettings())
                over = each.total.total_bytes - sum(step.total_bytes for _, step in online_steps(plan, {}, calls))
                assert over == pytest.approx(round(over / REFILL) * REFILL, abs=0.005 * each.total.total_bytes + 300), ids
                continue
            for step, counted in zip(plan.steps[-2:], (each.head, each.choice), strict=True):
                over = counted.total_bytes - price_operation(step.operation, primitives).total_bytes
                assert over == pytest.approx(round(over / REFILL) * REFILL, abs=250), (ids, step)
