"""Predicted equals counted: every distinct step of the registry, run by run, and whole passes of whole models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from hushlm.architectures import REGISTRY, Architecture, Blocks, parse
from hushlm.calibration.both_parties import run_both
from hushlm.calibration.counting import distinct_steps
from hushlm.calibration.validation import timed_passes
from hushlm.config import ModelShape
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.primitives import Primitives
from hushlm.cost.stocks import Session
from hushlm.plan import (
    HUSH,
    PUBLISHED,
    Embed,
    Mix,
    Operation,
    Plan,
    Project,
    Reveal,
    Rewrites,
    ScaleRows,
    Scores,
    Step,
    decode_plan,
    needed_squarings,
    prefill_plan,
)
from hushlm.private.engine import EngineSettings
from hushlm.private.program.description import describe
from tests.cost.counted import WARM_ELEMENTS, Run, count_every_run

pytestmark = [pytest.mark.two_party, pytest.mark.slow]

SHAPES = {
    "small": ModelShape(layers=6, heads=2, width=32, context=16, vocabulary=64),
    "larger": ModelShape(layers=6, heads=4, width=64, context=64, vocabulary=256),
    "grouped": ModelShape(
        layers=2, heads=6, width=96, context=40, vocabulary=64, key_value_heads=2, explicit_ffn_width=200, rotary_share=1.0, prefix=1
    ),
}
SETTINGS = EngineSettings()
PRIMITIVES = Primitives(load_constants().values, SETTINGS)
REPEATS = 2

# A ciphertext's size varies with its random content: by some tens of bytes, rarely by much more (a step with a batch of product triples
# moved 558,779 B where 556,852 were predicted, and 556,900 a moment later).
CIPHERTEXT_NOISE = 0.005
NOISE_BYTES = 200


def architectures_of(shape: ModelShape) -> list[Architecture]:
    """Those that the shape has enough layers for; a prefix needs rotary positions, and Llama blocks stand for all that have them."""
    return [a for a in REGISTRY if not shape.prefix or a.blocks is Blocks.LLAMA]


def plans_of(shape: ModelShape, rewrites: Rewrites) -> list[Plan]:
    found = [prefill_plan(architecture, shape, shape.context, rewrites=rewrites) for architecture in architectures_of(shape)]
    if rewrites is HUSH:
        found += [decode_plan(architecture, shape, shape.context) for architecture in architectures_of(shape)]
    if rewrites is HUSH and not shape.prefix:
        for reveal in (Reveal(shape.vocabulary, "topk", 3), Reveal(shape.vocabulary, "logits"), Reveal(5, "token")):
            found.append(prefill_plan(parse("SM+R"), shape, shape.context, reveal))
    return found


@cache
def counted_and_predicted(shape_name: str, rewrites: Rewrites) -> dict[Operation, list[tuple[Run, Exchange]]]:
    """Every distinct step's runs beside what the session model says of each, refills included."""
    by_squarings: dict[int, list[tuple[Plan, Step]]] = {}
    for plan, step in distinct_steps(plans_of(SHAPES[shape_name], rewrites)):
        squarings = needed_squarings(step.operation) or SETTINGS.exponential_squarings
        by_squarings.setdefault(squarings, []).append((plan, step))
    found: dict[Operation, list[tuple[Run, Exchange]]] = {}
    for squarings, work in by_squarings.items():
        session = Session(PRIMITIVES)
        # What the warm-up used up of the stocks: comparison and selection of its elements, and small products.
        session.run(PRIMITIVES.compare(WARM_ELEMENTS) + PRIMITIVES.select(WARM_ELEMENTS))
        for (_, step), runs in zip(work, count_every_run(work, EngineSettings(exponential_squarings=squarings), REPEATS), strict=True):
            bare = price_operation(step.operation, PRIMITIVES)
            found[step.operation] = [(run, session.run(bare)) for run in runs]
    return found


@pytest.mark.parametrize("rewrites", [HUSH, PUBLISHED], ids=["hush", "published"])
@pytest.mark.parametrize("shape_name", SHAPES)
def test_every_run_of_every_step_is_predicted(shape_name: str, rewrites: Rewrites) -> None:
    wrong = []
    for operation, runs in counted_and_predicted(shape_name, rewrites).items():
        for index, (run, predicted) in enumerate(runs):
            for counted, foretold in ((run.forward_bytes, predicted.forward_bytes), (run.back_bytes, predicted.back_bytes)):
                if abs(counted - foretold) > NOISE_BYTES + CIPHERTEXT_NOISE * counted:
                    wrong.append(f"{operation} run {index}: counted {counted}, predicted {foretold:.0f} bytes")
            messages = (run.forward_messages, run.back_messages), (predicted.forward_messages, predicted.back_messages)
            if messages[0] != messages[1]:
                wrong.append(f"{operation} run {index}: counted {messages[0]}, predicted {messages[1]} messages")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("shape_name", "architecture"),
    [pytest.param(name, a, id=f"{name}-{a}") for name, shape in SHAPES.items() for a in architectures_of(shape)],
)
def test_every_architecture_is_predicted_within_two_percent(shape_name: str, architecture: Architecture) -> None:
    runs = counted_and_predicted(shape_name, HUSH)
    shape = SHAPES[shape_name]
    for plan in (prefill_plan(architecture, shape, shape.context), decode_plan(architecture, shape, shape.context)):
        # The last run of each distinct step stands for all the plan's steps of that kind.
        last = [runs[step.operation][-1] for step in plan.steps]
        counted = sum(run.total_bytes for run, _ in last)
        predicted = sum(foretold.total_bytes for _, foretold in last)
        assert predicted == pytest.approx(counted, rel=0.02)
        assert predicted == pytest.approx(counted, rel=0.002), "2% is promised, 0.2% is usual: something is not modelled"


@pytest.mark.parametrize("name", ["SM2+ScFuFFN", "SM1+R", "SM+LN+G"])
def test_a_whole_model_is_the_sum_of_its_steps(name: str) -> None:
    shape = ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=64)
    description = describe(parse(name), shape)
    passes = 3
    client, server = run_both(timed_passes, (description, passes), description.engine)
    session = Session(Primitives(load_constants().values, description.engine))
    plan = prefill_plan(parse(name), shape, shape.context)
    for mine, theirs in zip(client, server, strict=True):
        assert (mine.sent_bytes, mine.received_bytes) == (theirs.received_bytes, theirs.sent_bytes)
    # Triples left over from set-up shift by a pass which one pays for a batch: sums are compared.
    predicted = [session.run(price_operation(step.operation, PRIMITIVES)) for _ in range(passes) for step in plan.steps]
    counted = sum(run.sent_bytes + run.received_bytes for run in client)
    batch = PRIMITIVES.triple_batch().total_bytes
    assert sum(e.total_bytes for e in predicted) == pytest.approx(counted, abs=1.05 * batch + 0.002 * counted)


@pytest.mark.parametrize("changed", [{"pack_products": False}, {"one_bit_error": False}], ids=["unpacked", "exact truncation"])
def test_other_engine_settings_are_predicted(changed: dict[str, Any]) -> None:
    shape, architecture = SHAPES["larger"], parse("SM(t)+R")
    plans = [prefill_plan(architecture, shape, shape.context), decode_plan(architecture, shape, shape.context)]
    kinds = (Embed, Project, Scores, Mix, ScaleRows)
    work = [(plan, step) for plan, step in distinct_steps(plans) if isinstance(step.operation, kinds)]
    primitives = Primitives(load_constants().values, replace(SETTINGS, **changed))
    for (_, step), (run,) in zip(work, count_every_run(work, EngineSettings(**changed), 1), strict=True):
        predicted = price_operation(step.operation, primitives)
        # The fourth prime's ciphertexts are 1% smaller than the average of three.
        assert predicted.total_bytes == pytest.approx(run.total_bytes, rel=0.012)
        assert (predicted.forward_messages, predicted.back_messages) == (run.forward_messages, run.back_messages)
