"""The private computation as a list of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hushlm.architectures import REGISTRY, Architecture, parse
from hushlm.config import ModelShape
from hushlm.plan import (
    HUSH,
    PUBLISHED,
    Activate,
    ActivatedGate,
    Divide,
    Gate,
    Kernel,
    Normalise,
    PowerKernel,
    Prepend,
    Project,
    RmsNormalise,
    Rotate,
    ScaleRows,
    decode_plan,
    prefill_plan,
    row_lengths,
)
from hushlm.shapes import GPT2_SMALL

SHAPE = ModelShape(layers=7, heads=4, width=32, context=64, vocabulary=64)


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_a_plan_has_the_architectures_nonlinearities_and_no_other(architecture: Architecture) -> None:
    for plan in (
        prefill_plan(architecture, SHAPE, 64),
        decode_plan(architecture, SHAPE, 64),
        prefill_plan(architecture, SHAPE, 64, rewrites=PUBLISHED),
    ):
        operations = [step.operation for step in plan.steps]
        with_ffn = sum(architecture.has_ffn(layer, SHAPE.layers) for layer in range(SHAPE.layers))
        kernel, other = (PowerKernel, Kernel) if architecture.power else (Kernel, PowerKernel)
        assert sum(isinstance(operation, kernel) for operation in operations) == SHAPE.layers
        assert not any(isinstance(operation, other) for operation in operations)
        norms = sum(isinstance(operation, Normalise | RmsNormalise) for operation in operations)
        # Side by side, attention and FFN share a normalisation, once gain and bias are folded.
        beside = 0 if architecture.is_parallel and plan.rewrites.fold_affine else with_ffn
        assert norms == (SHAPE.layers + beside + 1 if architecture.has_block_norm else int(architecture.final_norm))
        turns = sum(isinstance(operation, Rotate) for operation in operations)
        assert turns == (SHAPE.layers if architecture.is_rotary else 0)
        activations = sum(isinstance(operation, Activate | Gate | ActivatedGate) for operation in operations)
        assert activations == (0 if architecture.feed_forward.is_linear else with_ffn)
        scaled = sum(isinstance(operation, ScaleRows) for operation in operations)
        assert scaled == (SHAPE.layers if "(t)" in str(architecture) else 0)


def test_a_final_norm_is_one_step_more() -> None:
    plain, normed = (prefill_plan(parse(name), SHAPE, 64).steps for name in ("SM2+R", "SM2+LNf+R"))
    assert [step.name for step in normed if step not in plain] == ["final_norm"]
    assert len(normed) == len(plain) + 1


def test_the_regulariser_changes_nothing_at_inference() -> None:
    assert prefill_plan(parse("EReg(SM2+R)"), SHAPE, 64).steps == prefill_plan(parse("SM2+R"), SHAPE, 64).steps


def test_fused_ffns_leave_no_step() -> None:
    steps = prefill_plan(parse("SM+ScFuFFN"), SHAPE, 64).steps
    assert not [step for step in steps if "ffn" in step.name]
    kept = prefill_plan(parse("SM+ScFuFFN"), SHAPE, 64, rewrites=replace(HUSH, explicit_ffns=(2, 5))).steps
    assert [step.layer for step in kept if step.name == "ffn"] == [2, 5]


def test_only_the_last_row_of_the_last_layer_is_computed() -> None:
    plan = prefill_plan(parse("SM+R"), SHAPE, 64)
    last = {str(step.name): step.operation for step in plan.steps if step.layer == SHAPE.layers - 1}
    assert isinstance(last["key_value"], Project)
    assert last["key_value"].rows == 64
    assert {
        getattr(last[name], "rows", None) for name in ("query", "scores", "kernel", "mix", "divide", "ffn_expand", "ffn_activation")
    } == {1}
    (head,) = [step.operation for step in plan.steps if step.name == "head"]
    assert getattr(head, "rows", None) == 1


@pytest.mark.parametrize("tokens", [0, -1, 65])
def test_lengths_outside_the_context_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        prefill_plan(parse("SM"), SHAPE, tokens)


@pytest.mark.parametrize(("heads", "width"), [(3, 32), (5, 64)])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{heads} heads do not divide a width of {width}"):
        ModelShape(layers=2, heads=heads, width=width)


def test_a_prefix_is_put_before_the_keys_of_the_first_pass_alone() -> None:
    shape = replace(SHAPE, prefix=3, key_value_heads=2)
    architecture = parse("Llama(SM2(th)+RMS+SwiQ)")
    first, further = prefill_plan(architecture, shape, 32), decode_plan(architecture, shape, 40)
    assert (first.keys, further.keys) == (35, 43)
    assert sum(isinstance(step.operation, Prepend) for step in first.steps) == shape.layers
    assert not [step for step in further.steps if isinstance(step.operation, Prepend)]
    kernel = next(step.operation for step in first.steps if isinstance(step.operation, Kernel))
    assert row_lengths(kernel) == list(range(4, 36)), "every row has the prefix and the tokens up to its own"
    assert kernel.elements == 4 * sum(range(4, 36))


def test_query_key_normalisation_changes_nothing_at_inference() -> None:
    assert prefill_plan(parse("PS3(th,qk)+LN+Q"), SHAPE, 64).steps == prefill_plan(parse("PS3(th)+LN+Q"), SHAPE, 64).steps


def test_divisions_print_as_the_keys_of_counted_results_have_them() -> None:
    plan = prefill_plan(parse("SM2+R"), GPT2_SMALL, 128)
    divide = next(step.operation for step in plan.steps if isinstance(step.operation, Divide))
    assert repr(divide) == "Divide(heads=12, rows=128, width=64, largest=128, polynomial=True, block=256)"
