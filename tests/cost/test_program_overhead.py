"""Lines of compiled programs: about as many as the model says, and so many more seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra private is not installed")

import jax
import jax.numpy as jnp

from hushlm.architectures import parse
from hushlm.calibration.counting import distinct_steps
from hushlm.config import ModelShape
from hushlm.cost import LAN, price_total
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.program_overhead import overhead_seconds, program_lines
from hushlm.plan import Plan, Step, decode_plan, input_shapes, prefill_plan
from hushlm.private.engine import compile_program
from hushlm.private.program.step_programs import step_program

pytestmark = pytest.mark.two_party

NAMES = ("SM2+ScFuFFN", "SM1+R", "SM+LN+G", "SM(t)+ScFFN", "SM2+R2", "SM2+Q", "SM2+B")


def lines_of(plan: Plan, step: Step) -> int:
    program = step_program(plan, step)
    shapes = [*input_shapes(plan, step), *(tensor.shape for tensor in program.tensors)]
    function = program.build(jnp)
    result = jax.eval_shape(function, *(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    count = len(result) if isinstance(result, tuple) else 1
    public = [index for index, value in enumerate(program.inputs) if value.is_public]
    return compile_program(function, shapes, count, "step", public).lines


@pytest.mark.slow
@pytest.mark.parametrize("make", [prefill_plan, decode_plan], ids=["first token", "further token"])
@pytest.mark.parametrize("context", [32, 128])
def test_the_lines_of_a_pass_are_about_those_of_its_compiled_programs(context: int, make: Callable[..., Plan]) -> None:
    shape = ModelShape(layers=2, heads=2, width=32, context=context, vocabulary=256)
    plans = [make(parse(name), shape, context) for name in NAMES]
    compiled = {step.operation: lines_of(plan, step) for plan, step in distinct_steps(plans)}
    for plan in plans:
        counted = sum(compiled[step.operation] for step in plan.steps)
        assert sum(program_lines(step.operation) for step in plan.steps) == pytest.approx(counted, rel=0.15)


def test_lines_and_messages_take_time() -> None:
    constants = replace(load_constants().values, message_seconds=2.0, line_seconds=3.0)
    exchange = Exchange(forward_messages=5, back_messages=7)
    assert overhead_seconds(exchange, 11, constants) == 2 * 12 + 3 * 11


def test_a_pass_takes_the_longer_the_slower_lines_are_read() -> None:
    shape = ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=256)
    plan, calibrated = prefill_plan(parse("SM2+R"), shape, 32), load_constants()
    slower = replace(calibrated, elapsed=replace(calibrated.elapsed, line_seconds=calibrated.elapsed.line_seconds + 1e-3))
    before, after = (price_total(plan, network=LAN, calibrated=each) for each in (calibrated, slower))
    lines = sum(program_lines(step.operation) for step in plan.steps)
    assert after.compute_seconds - before.compute_seconds == pytest.approx(1e-3 * lines)
    assert after.seconds - before.seconds == pytest.approx(1e-3 * lines)
    assert after.cpu_seconds == before.cpu_seconds
