"""How the steps of a plan are connected: which values each reads and writes, and which of the server's tensors it needs.

Names of values: x residual stream, h normalised stream, q k v, s scores, e attention weights, z row sums, o mixed values,
f FFN hidden, logits, answer. "x_last" and "h_last" are the row to be predicted, where the last layer narrows to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hushlm.architectures import Temperature
from hushlm.plan import Embed, Kernel, Normalise, Plan, Project, Reveal, Rotate, ScaleRows, Step
from hushlm.private.program.steps import Arithmetic, Array, arithmetic

__all__ = ["StepProgram", "is_narrowed", "step_program", "weight_names", "weight_shapes"]


@dataclass(frozen=True)
class StepProgram:
    """A step ready to run.

    Attributes:
        build: the array program for a namespace.
        key: equal for steps that share one compilation.
        inputs: values read, in the order of the program's first arguments.
        weights: suffix and shape of the server's tensors, the program's last arguments; their names are LAYER.STEP.SUFFIX.
        outputs: values written.
        public: which of the inputs are public.
    """

    build: Callable[[ModuleType], Arithmetic]
    key: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    public: tuple[str, ...] = ()


def is_narrowed(plan: Plan, step: Step) -> bool:
    """Whether this step reads only the row to be predicted while the pass has more."""
    return step.name == "query" and plan.rows > 1


def weight_names(step: Step, program: StepProgram) -> list[str]:
    """Names of the server's tensors of a step, in order."""
    prefix = step.name if step.layer is None else f"{step.layer}.{step.name}"
    return [f"{prefix}.{suffix}" for suffix, _ in program.weights]


def weight_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Every tensor of the server that a pass needs, by name; positions and temperatures are stored for the whole context."""
    shapes: dict[str, tuple[int, ...]] = {}
    for step in plan.steps:
        program = step_program(plan, step)
        for name, (suffix, shape) in zip(weight_names(step, program), program.weights, strict=True):
            if suffix == "positions":
                shape = (plan.shape.context, *shape[1:])
            elif suffix == "inverse":
                shape = (shape[0], plan.shape.context, *shape[2:])
            shapes[name] = shape
    return shapes


def _split_heads(x_TN: Array, heads: int, parts: int) -> tuple[Array, ...]:
    """(T, parts * D) -> parts of (H, T, E)."""
    rows, columns = x_TN.shape
    width = columns // parts
    split = x_TN.reshape(rows, parts, heads, width // heads).transpose(1, 2, 0, 3)
    return tuple(split[i] for i in range(parts))


def _merge_heads(o_HTE: Array) -> Array:
    heads, rows, head_width = o_HTE.shape
    return o_HTE.transpose(1, 0, 2).reshape(rows, heads * head_width)


def step_program(plan: Plan, step: Step) -> StepProgram:
    """The program of a step of this plan, by the step's place in the block."""
    operation, heads = step.operation, plan.shape.heads
    normalised = plan.architecture.has_final_norm if step.name == "head" else plan.architecture.has_layer_norm
    stream = "h" if normalised else "x"
    plain = {
        "temperature": (("q",), ("q",)),
        "scores": (("q", "k"), ("s",)),
        "kernel": (("s", "mask"), ("e", "z")),
        "mix": (("e", "v"), ("o",)),
        "divide": (("o", "z"), ("o",)) if plan.rewrites.divide_late else (("e", "z"), ("e",)),
        "ffn_activation": (("f",), ("f",)),
    }

    def build(xp: ModuleType) -> Arithmetic:
        return arithmetic(operation, xp)

    match operation:
        case Embed(rows, vocabulary, width, _):
            weights = (("table", (vocabulary, width)), ("positions", (rows, width)))
            return StepProgram(build, (operation,), ("one_hot",), ("x",), weights)
        case Normalise(_, width, affine):
            gains = (("gain", (width,)), ("bias", (width,))) if affine else ()
            return StepProgram(build, (operation,), ("x",), ("h",), gains)
        case Reveal(kind=kind):
            return StepProgram(build, (operation,), ("logits",), ("answer", "answer_logits") if kind == "topk" else ("answer",))
        case Project():
            return _projection(operation, step.name, heads, stream, is_narrowed(plan, step))
        case ScaleRows(rows):
            assert plan.architecture.temperature is Temperature.PER_HEAD_AND_POSITION
            return StepProgram(build, (operation,), *plain[step.name], (("inverse", (heads, rows, 1)),))
        case Rotate():
            public = ("turns_query", "turns")
            return StepProgram(build, (operation,), ("q", "k", *public), ("q", "k"), public=public)
        case Kernel():
            return StepProgram(build, (operation,), *plain[step.name], public=("mask",))
        case _:
            return StepProgram(build, (operation,), *plain[step.name])


def _projection(operation: Project, name: str, heads: int, stream: str, narrowed: bool) -> StepProgram:
    """Linear maps differ in what stands before and after the product: heads split or merged, a residual connection."""
    weights = (("weight", (operation.inner, operation.outer)), ("bias", (operation.outer,)))
    parts = {"query_key_value": ("q", "k", "v"), "key_value": ("k", "v"), "query": ("q",)}
    # Without LayerNorm an explicit linear FFN is the whole map x M + c, its residual connection inside M.
    residual = {"attention_output": "o", "ffn_contract": "f"} | ({"ffn": "h"} if stream == "h" else {})

    def build(xp: ModuleType) -> Arithmetic:
        product = arithmetic(operation, xp)
        if name in parts:
            split = len(parts[name])

            def into_heads(x: Array, weight: Array, bias: Array) -> Array | tuple[Array, ...]:
                out = _split_heads(product(x, weight, bias), heads, split)
                return out if split > 1 else out[0]

            return into_heads
        if name in residual:
            merge = _merge_heads if name == "attention_output" else (lambda x: x)
            return lambda y, x, weight, bias: x + product(merge(y), weight, bias)
        return product

    if name in parts:
        return StepProgram(build, (operation, name), (f"{stream}_last" if narrowed else stream,), parts[name], weights)
    if name in residual:
        return StepProgram(build, (operation, name == "attention_output", "residual"), (residual[name], "x"), ("x",), weights)
    output = {"ffn_expand": "f", "ffn": "x", "head": "logits"}[name]
    return StepProgram(build, (operation,), (stream,), (output,), weights)
