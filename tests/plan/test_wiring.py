"""Steps read what earlier steps wrote, at the shapes at which it was written; names are the strings that files and events hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hushlm.architectures import REGISTRY, Architecture
from hushlm.config import ModelShape
from hushlm.plan import (
    HUSH,
    PUBLISHED,
    STREAMS,
    ModelPart,
    Plan,
    Reveal,
    StepName,
    Tensor,
    Value,
    decode_plan,
    input_shapes,
    prefill_plan,
    server_tensors,
    stored_shapes,
    tensor_name,
    wiring,
)
from hushlm.private.program.step_programs import step_program

SHAPE = ModelShape(layers=7, heads=4, width=32, context=64, vocabulary=64)
GROUPED = replace(SHAPE, key_value_heads=2, explicit_ffn_width=52)
PREFIXED = replace(GROUPED, key_value_heads=1, prefix=2, qkv_bias=True)
WRITINGS = (HUSH, PUBLISHED, replace(HUSH, divide_late=False, explicit_ffns=(1,)))


def plans_of(architecture: Architecture, shape: ModelShape = SHAPE) -> list[Plan]:
    makes: tuple[Callable[..., Plan], ...] = (prefill_plan, decode_plan)
    reveals = (None, Reveal(shape.vocabulary, "topk", 3), Reveal(shape.vocabulary, "logits"))
    return [make(architecture, shape, 48, reveal, rewrites) for make, rewrites, reveal in product(makes, WRITINGS, reveals)]


def shapes_of(architecture: Architecture) -> tuple[ModelShape, ...]:
    return (SHAPE, GROUPED, PREFIXED) if architecture.is_rotary else (SHAPE, GROUPED)


@pytest.mark.parametrize(
    ("architecture", "shape"), [pytest.param(a, s, id=f"{a}-{s.cache_heads}-{s.prefix}") for a in REGISTRY for s in shapes_of(a)]
)
def test_every_step_reads_values_at_the_shapes_at_which_they_were_written(architecture: Architecture, shape: ModelShape) -> None:
    for plan in plans_of(architecture, shape):
        written: dict[Value, tuple[int, ...]] = {}
        for step in plan.steps:
            wired, shapes = wiring(plan, step), input_shapes(plan, step)
            if step.name.starts_last_row:
                written |= {stream.last_row: (1, *written[stream][1:]) for stream in STREAMS if stream in written}
            for value, read in zip(wired.reads, shapes, strict=True):
                if value in (Value.KEYS, Value.VALUES) and step.name not in (StepName.ROTARY, StepName.PREFIX):
                    # From the cache: as many keys as the pass attends to, with the prefix.
                    assert read == (shape.cache_heads, plan.keys, shape.head_width)
                    assert plan.rows == 1 or read == written[value]
                elif value is Value.LOGITS:
                    # Only the last row is revealed.
                    assert read[-1] == written[value][-1]
                elif not value.is_public and value is not Value.ONE_HOT:
                    assert read == written[value], (step.name, value)
            arguments = [np.ones(read) for read in shapes]
            tensors = [np.ones(tensor.shape) for tensor in server_tensors(plan, step)]
            results = step_program(plan, step).build(np)(*arguments, *tensors)
            results = results if isinstance(results, tuple) else (results,)
            written |= {value: result.shape for value, result in zip(wired.writes, results, strict=True)}
            if step.name.ends_all_rows:
                written |= {stream: written[stream.last_row] for stream in STREAMS if stream in written}


def test_every_name_occurs_and_belongs_to_a_part_of_the_model() -> None:
    met = {step.name for architecture in REGISTRY for plan in plans_of(architecture, shapes_of(architecture)[-1]) for step in plan.steps}
    assert met == set(StepName)
    assert {name.part for name in StepName} == set(ModelPart)


def test_names_are_strings_wherever_they_are_written() -> None:
    for name in StepName:
        assert json.dumps({name: name}) == f'{{"{name.value}": "{name.value}"}}'
        assert (repr(name), str(name), f"{name}") == (repr(name.value), name.value, name.value)
    assert tensor_name(StepName.QUERY_KEY_VALUE, 3, Tensor.WEIGHT) == "3.query_key_value.weight"
    assert tensor_name(StepName.HEAD, None, Tensor.BIAS) == "head.bias"


def test_tensors_with_positions_are_stored_for_the_whole_context() -> None:
    (architecture,) = (a for a in REGISTRY if str(a) == "SM(t)+ScFuFFN")
    plan = prefill_plan(architecture, SHAPE, 32)
    stored = stored_shapes(plan)
    assert stored["embedding.positions"] == (SHAPE.context, SHAPE.width)
    assert stored["0.temperature.inverse"] == stored["6.temperature.inverse"] == (SHAPE.heads, SHAPE.context, 1)
    needed = {tensor.name: tensor.shape for step in plan.steps for tensor in server_tensors(plan, step)}
    assert needed["embedding.positions"] == (32, SHAPE.width)
    assert (needed["0.temperature.inverse"], needed["6.temperature.inverse"]) == ((SHAPE.heads, 32, 1), (SHAPE.heads, 1, 1))
