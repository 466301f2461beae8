"""How many nonlinear operations, floating-point operations (FLOPs) and parameters an architecture has at a shape.

All are read off the plan in its published forms and never off the architecture, so that a new nonlinearity with a step in the plan is
counted here without a change.

FLOPs are counted by one of two conventions. T is the number of tokens, D the width, F the width of the feed-forward network (FFN), V the
vocabulary.
    paper: as in tables 3, 4, 7 and 8 of arXiv 2501.03489. In each layer the FFN takes 4 T D F (2 T D^2 where it is fused), and attention
           takes 8 T D^2 + 3 T^2 D: Q K^T is counted in full, A V for the causal half. The head is left out.
    full:  attention takes 8 T D^2 + 4 T^2 D in each layer, and the head takes 2 T D V.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal, assert_never

from hushlm.architectures import Architecture, Temperature
from hushlm.config import ModelShape
from hushlm.plan import (
    PUBLISHED,
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    ModelPart,
    Normalise,
    Operation,
    Plan,
    PowerKernel,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
    Step,
    StepName,
    prefill_plan,
)

__all__ = ["Flops", "NonlinearOperation", "check_size", "flops", "nonlinear_operations", "parameters"]


@dataclass(frozen=True)
class NonlinearOperation:
    """One kind of nonlinearity. `str` writes it as the paper does, e.g. `SM: 144 x R^128x128`.

    Attributes:
        name: the part of the architecture's name that brings the nonlinearity: SM, LN, or the letter of the FFN.
        count: how many matrices go through it in one pass.
        rows, columns: the size of each matrix.
    """

    name: str
    count: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.name}: {self.count} x R^{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one pass (an addition and a multiplication count as two).

    Attributes:
        ffn: the FLOPs of the feed-forward networks as the architecture defines them, although the private program absorbs some.
        attention: the FLOPs of the projections and of the two products of every head.
        head: the FLOPs of the projection to the vocabulary; 0 in the paper's convention, which leaves it out.
    """

    ffn: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        """The FLOPs of the whole pass."""
        return self.ffn + self.attention + self.head

    def to_dict(self) -> dict[str, int]:
        """The three numbers as plain JSON values."""
        return asdict(self)


LARGEST_PASS_FLOPS = 1e17
"""A thousand times what a model of 7 billion parameters takes for 4096 tokens. Nobody computes more than this privately, and even its
pricing would take long."""


def check_size(shape: ModelShape) -> None:
    """Refuse a shape that can only be a typing error.

    Raises:
        ValueError: if one pass over a full context takes more than `LARGEST_PASS_FLOPS`.
    """
    rows, width = shape.context, shape.width
    block = 2 * rows * width * (4 * width + 2 * shape.ffn_width + 2 * rows)
    work = shape.layers * block + 2 * rows * width * shape.vocabulary
    if work > LARGEST_PASS_FLOPS:
        raise ValueError(
            f"A pass of this shape takes about {work:.0e} FLOPs, and prices are for up to {LARGEST_PASS_FLOPS:.0e}: "
            "give fewer layers, a smaller width or a shorter context."
        )


def nonlinear_operations(architecture: Architecture, shape: ModelShape, tokens: int | None = None) -> tuple[NonlinearOperation, ...]:
    """What the blocks evaluate besides additions and products, in the order in which a block evaluates it.

    The normalisation before the head is left out, as in the paper.

    Args:
        tokens: how many tokens the pass covers; the whole context by default.

    Raises:
        ValueError: if `tokens` does not fit the context.
    """
    plan = _published_plan(architecture, shape, shape.context if tokens is None else tokens)
    counted: Counter[tuple[str, int, int]] = Counter()
    for step in plan.steps:
        if step.layer is not None and (found := _nonlinearity(step.operation)) is not None:
            name, matrices, rows, columns = found
            counted[name, rows, columns] += matrices
    return tuple(NonlinearOperation(name, count, rows, columns) for (name, rows, columns), count in counted.items())


def flops(
    architecture: Architecture, shape: ModelShape, tokens: int | None = None, convention: Literal["paper", "full"] = "paper"
) -> Flops:
    """The FLOPs of one pass over `tokens` tokens (the whole context by default), by one of this module's conventions.

    Raises:
        ValueError: if `tokens` does not fit the context.
    """
    plan = _published_plan(architecture, shape, shape.context if tokens is None else tokens)
    ffn = attention = head = 0
    for step in plan.steps:
        amount = _flops(step.operation, convention)
        match step.name.part:
            case ModelPart.FEED_FORWARD:
                ffn += amount
            case ModelPart.ATTENTION:
                attention += amount
            case ModelPart.HEAD:
                head += amount if convention == "full" else 0
            case ModelPart.EMBEDDING | ModelPart.FINAL_NORM | ModelPart.ANSWER:
                assert not amount
            case _:
                assert_never(step.name.part)
    return Flops(ffn, attention, head)


def parameters(architecture: Architecture, shape: ModelShape) -> int:
    """How many numbers a trained model consists of: embedding, positions, blocks, and a head of its own where it is not tied.

    What only training sees is not counted: the two factors of WNorm and SNorm, and the regulariser's thresholds. The scaled FFNs are
    counted in full, although the private program absorbs them.
    """
    plan = _published_plan(architecture, shape, shape.context)
    total = sum(_weights(step, architecture, shape) for step in plan.steps if step.name is not StepName.HEAD)
    if not shape.tied_head:
        total += shape.width * shape.vocabulary
    # These scalars are folded into matrices and have no step of their own.
    if architecture.temperature is Temperature.PER_HEAD:
        total += shape.layers * shape.heads
    if architecture.feed_forward.is_scaled:
        total += 2 * sum(architecture.has_ffn(layer, shape.layers) for layer in range(shape.layers))
    return total


@lru_cache(maxsize=4)
def _published_plan(architecture: Architecture, shape: ModelShape, tokens: int) -> Plan:
    """The plan in its published forms, kept because one architecture is usually asked for several counts in a row."""
    return prefill_plan(architecture, shape, tokens, rewrites=PUBLISHED)


def _weights(step: Step, architecture: Architecture, shape: ModelShape) -> int:
    """How many trained numbers a step uses."""
    operation = step.operation
    match operation:
        case Embed():
            return (operation.vocabulary + (0 if architecture.is_rotary else shape.context)) * operation.width
        case Project():
            biased = architecture.has_biases or (shape.qkv_bias and step.name is StepName.QUERY_KEY_VALUE)
            return (operation.inner + biased) * operation.outer
        case Normalise():
            return 2 * operation.width
        case RmsNormalise():
            return operation.width
        case Prepend():
            return 2 * operation.heads * operation.prefix * operation.width
        case ActivatedGate():
            return 3 if operation.kind == "silu-quadratic" else 0
        case ScaleRows():
            return shape.heads * operation.rows
        case Rotate() | Scores() | Mix() | Kernel() | PowerKernel() | Divide() | Activate() | Gate() | Reveal():
            return 0
        case _:
            assert_never(operation)


def _nonlinearity(operation: Operation) -> tuple[str, int, int, int] | None:
    """The name of an operation's nonlinearity, how many matrices go through it, and their rows and columns; None if it has none."""
    match operation:
        case Kernel():
            return "SM", operation.heads, operation.rows, operation.keys
        case PowerKernel():
            return "PS", operation.heads, operation.rows, operation.keys
        case Normalise():
            return "LN", 1, operation.rows, operation.width
        case RmsNormalise():
            return "RMS", 1, operation.rows, operation.width
        case ActivatedGate():
            return "SwiQ" if operation.kind == "silu-quadratic" else "Swi", 1, operation.rows, operation.width
        case Activate():
            letter = {"relu": "R", "squared-relu": "R2", "polynomial": "P", "square": "Q"}.get(operation.kind, "G")
            return letter, 1, operation.rows, operation.width
        case Gate():
            return "B", 1, operation.rows, operation.width
        case Embed() | Project() | ScaleRows() | Rotate() | Prepend() | Scores() | Mix() | Divide() | Reveal():
            # A division belongs to the softmax, whose matrices the kernel has counted.
            return None
        case _:
            assert_never(operation)


def _flops(operation: Operation, convention: Literal["paper", "full"]) -> int:
    """The FLOPs of an operation's matrix products; elementwise work and the lookup of the embedding are not counted."""
    match operation:
        case Project():
            return 2 * operation.rows * operation.inner * operation.outer
        case Scores():
            return 2 * operation.heads * operation.rows * operation.keys * operation.head_width
        case Mix():
            full = 2 * operation.heads * operation.rows * operation.keys * operation.head_width
            return full // 2 if convention == "paper" else full
        case (
            Embed()
            | Normalise()
            | RmsNormalise()
            | ScaleRows()
            | Rotate()
            | Prepend()
            | Kernel()
            | PowerKernel()
            | Divide()
            | Activate()
            | Gate()
            | ActivatedGate()
            | Reveal()
        ):
            return 0
        case _:
            assert_never(operation)
