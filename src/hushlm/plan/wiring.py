"""How the steps of a plan are connected: the values that each reads and writes, and the server's tensors that it uses.

Steps and operations are matched exhaustively, so that a new one without wiring fails the type check.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from hushlm.plan.attention_operations import (
    Divide,
    Kernel,
    Mix,
    PowerKernel,
    Prepend,
    Rotate,
    Scores,
)
from hushlm.plan.operations import (
    Activate,
    ActivatedGate,
    Embed,
    Gate,
    Normalise,
    Project,
    Reveal,
    RmsNormalise,
    ScaleRows,
    Step,
)
from hushlm.plan.passes import Plan
from hushlm.plan.step_names import StepName, Tensor, Value, tensor_name

__all__ = ["ServerTensor", "Surroundings", "Wiring", "input_shapes", "server_tensors", "stored_shapes", "wiring"]

Shape = tuple[int, ...]


class Surroundings(Enum):
    """What is done before and after the operation of a step. Rearranging data and adding cost nothing."""

    NONE = "none"
    SPLIT_HEADS = "split heads"
    """The product (T, N) is split into the step's outputs, each (H, T, E) with its own number of heads."""
    GROUPED_HEADS = "grouped heads"
    """The first input (H, T, N) is reshaped to (G, H/G T, N) before the operation, where H/G heads of queries share one of keys, and the
    result back."""
    RESIDUAL = "residual"
    """The step's second input is added to the result."""
    MERGED_HEADS_RESIDUAL = "merged heads, residual"
    """The first input (H, T, E) is reshaped to (T, D) before the operation, and the second input is added to the result."""


@dataclass(frozen=True)
class Wiring:
    """How a step is connected.

    Attributes:
        reads: the values that it reads, in the order of its program's first arguments.
        writes: the values that it writes, in the order of its program's results.
        surroundings: what is done before and after its operation.
    """

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    surroundings: Surroundings = Surroundings.NONE


@dataclass(frozen=True)
class ServerTensor:
    """One of the server's tensors that a step uses, at the shape that the pass needs.

    Attributes:
        name: its name among the exported weights.
        tensor: which of the step's tensors it is.
        shape: its shape in this pass.
    """

    name: str
    tensor: Tensor
    shape: Shape

    def stored_shape(self, context: int) -> Shape:
        """The shape at which the tensor is exported, with an entry for every position of the context where it has positions."""
        axis = self.tensor.position_axis
        return self.shape if axis is None else (*self.shape[:axis], context, *self.shape[axis + 1 :])


def wiring(plan: Plan, step: Step) -> Wiring:
    """The wiring of a step of this plan."""
    stream = Value.NORMALISED if plan.architecture.has_block_norm else Value.STREAM
    grouped = Surroundings.GROUPED_HEADS if plan.shape.cache_heads < plan.shape.heads else Surroundings.NONE
    match step.name:
        case StepName.EMBEDDING:
            return Wiring((Value.ONE_HOT,), (Value.STREAM,))
        case StepName.NORM_ATTENTION | StepName.NORM_FFN | StepName.FINAL_NORM:
            return Wiring((Value.STREAM,), (Value.NORMALISED,))
        case StepName.QUERY_KEY_VALUE:
            return Wiring((stream,), (Value.QUERIES, Value.KEYS, Value.VALUES), Surroundings.SPLIT_HEADS)
        case StepName.QUERY:
            return Wiring((stream.last_row,), (Value.QUERIES,), Surroundings.SPLIT_HEADS)
        case StepName.KEY_VALUE:
            return Wiring((stream,), (Value.KEYS, Value.VALUES), Surroundings.SPLIT_HEADS)
        case StepName.ROTARY:
            return Wiring((Value.QUERIES, Value.KEYS, Value.TURNS_QUERY, Value.TURNS), (Value.QUERIES, Value.KEYS))
        case StepName.PREFIX:
            return Wiring((Value.KEYS, Value.VALUES), (Value.KEYS, Value.VALUES))
        case StepName.TEMPERATURE:
            return Wiring((Value.QUERIES,), (Value.QUERIES,))
        case StepName.SCORES:
            return Wiring((Value.QUERIES, Value.KEYS), (Value.SCORES,), grouped)
        case StepName.KERNEL:
            roots = (Value.ROOTS,) if plan.architecture.power else ()
            return Wiring((Value.SCORES, Value.MASK, *roots), (Value.WEIGHTS, Value.SUMS))
        case StepName.MIX:
            return Wiring((Value.WEIGHTS, Value.VALUES), (Value.MIXED,), grouped)
        case StepName.DIVIDE:
            divided = Value.MIXED if plan.rewrites.divide_late else Value.WEIGHTS
            return Wiring((divided, Value.SUMS), (divided,))
        case StepName.ATTENTION_OUTPUT:
            return Wiring((Value.MIXED, Value.STREAM), (Value.STREAM,), Surroundings.MERGED_HEADS_RESIDUAL)
        case StepName.FFN:
            if plan.architecture.has_block_norm:
                return Wiring((Value.NORMALISED, Value.STREAM), (Value.STREAM,), Surroundings.RESIDUAL)
            # Without a norm an explicit linear FFN is the whole map x M + c, its residual connection inside M.
            return Wiring((Value.STREAM,), (Value.STREAM,))
        case StepName.FFN_EXPAND:
            return Wiring((stream,), (Value.HIDDEN,))
        case StepName.FFN_ACTIVATION:
            return Wiring((Value.HIDDEN,), (Value.HIDDEN,))
        case StepName.FFN_CONTRACT:
            return Wiring((Value.HIDDEN, Value.STREAM), (Value.STREAM,), Surroundings.RESIDUAL)
        case StepName.HEAD:
            return Wiring((Value.NORMALISED if plan.architecture.has_final_norm else Value.STREAM,), (Value.LOGITS,))
        case StepName.REVEAL:
            top = isinstance(step.operation, Reveal) and step.operation.kind == "topk"
            return Wiring((Value.LOGITS,), (Value.ANSWER, Value.ANSWER_LOGITS) if top else (Value.ANSWER,))
        case _:
            assert_never(step.name)


def input_shapes(plan: Plan, step: Step) -> tuple[Shape, ...]:
    """Shapes of the values that a step reads, in order."""
    width, heads, head_width = plan.shape.width, plan.shape.heads, plan.shape.head_width
    groups = heads // plan.shape.cache_heads
    match step.operation:
        case Embed(rows, vocabulary):
            return ((rows, vocabulary),)
        case Normalise(rows) | RmsNormalise(rows):
            return ((rows, width),)
        case Project(rows, inner, outer):
            match wiring(plan, step).surroundings:
                case Surroundings.NONE | Surroundings.SPLIT_HEADS:
                    return ((rows, inner),)
                case Surroundings.RESIDUAL:
                    return (rows, inner), (rows, outer)
                case Surroundings.MERGED_HEADS_RESIDUAL:
                    return (heads, rows, head_width), (rows, outer)
                case Surroundings.GROUPED_HEADS:
                    raise AssertionError(f"{step.name} multiplies no heads")
        case ScaleRows(rows):
            return ((heads, rows, head_width),)
        case Rotate(_, queries, rows, turned):
            return (heads, queries, head_width), (heads // groups, rows, head_width), (2, queries, turned), (2, rows, turned)
        case Prepend(key_heads, _, rows):
            return (key_heads, rows, head_width), (key_heads, rows, head_width)
        case Scores(key_heads, rows, keys):
            return (heads, rows // groups, head_width), (key_heads, keys, head_width)
        case Kernel(_, rows, keys):
            return (heads, rows, keys), (rows, keys)
        case PowerKernel(_, rows, keys):
            return (heads, rows, keys), (rows, keys), (rows, 1)
        case Mix(key_heads, rows, keys):
            return (heads, rows // groups, keys), (key_heads, keys, head_width)
        case Divide(_, rows, divided):
            return (heads, rows, divided), (heads, rows)
        case Activate(rows, hidden):
            return ((rows, hidden),)
        case Gate(rows, hidden) | ActivatedGate(rows, hidden):
            return ((rows, 2 * hidden),)
        case Reveal(vocabulary, rows=rows):
            return ((rows, vocabulary),)
        case _:
            assert_never(step.operation)


def server_tensors(plan: Plan, step: Step) -> tuple[ServerTensor, ...]:
    """The server's tensors that a step uses, in the order of its program's last arguments."""
    shapes: tuple[tuple[Tensor, Shape], ...]
    match step.operation:
        case Embed(rows, vocabulary, width):
            shapes = ((Tensor.TABLE, (vocabulary, width)), (Tensor.POSITIONS, (rows, width)))
        case Normalise(_, width, affine):
            shapes = ((Tensor.GAIN, (width,)), (Tensor.BIAS, (width,))) if affine else ()
        case RmsNormalise(_, width, affine):
            shapes = ((Tensor.GAIN, (width,)),) if affine else ()
        case Prepend(heads, prefix, _, width):
            shapes = ((Tensor.KEYS, (heads, prefix, width)), (Tensor.VALUES, (heads, prefix, width)))
        case ActivatedGate(kind=kind):
            shapes = ((Tensor.CURVE, (2,)),) if kind == "silu-quadratic" else ()
        case Project(_, inner, outer):
            shapes = ((Tensor.WEIGHT, (inner, outer)), (Tensor.BIAS, (outer,)))
        case ScaleRows(rows):
            shapes = ((Tensor.INVERSE, (plan.shape.heads, rows, 1)),)
        case Rotate() | Scores() | Kernel() | PowerKernel() | Mix() | Divide() | Activate() | Gate() | Reveal():
            shapes = ()
        case _:
            assert_never(step.operation)
    return tuple(ServerTensor(tensor_name(step.name, step.layer, tensor), tensor, shape) for tensor, shape in shapes)


def stored_shapes(plan: Plan) -> dict[str, Shape]:
    """Every tensor of the server that a pass needs, by name, at the shape at which it is exported."""
    context = plan.shape.context
    return {tensor.name: tensor.stored_shape(context) for step in plan.steps for tensor in server_tensors(plan, step)}
