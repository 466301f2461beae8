"""What correlated randomness each operation of a plan uses up online, as data: derived from the plan alone, so both parties agree on it.

A need says what was masked and multiplied beforehand. Values that two parties share are opened less a mask A that they share too,
e = x - A; what remains to be known beforehand are shares of products of masks.

    ProjectNeed     x W         client's mask R, shares of R W (of the client's share of x alone; the server has the rest itself)
    LookUpNeed      rows of W that the client chooses: client's mask R of short one-hot rows and C of the choice, server's mask S; R W, C S
    ScaleNeed       x * s       client's mask R, server's mask B of its own factors s, shares of R * B
    AttendNeed      x Y^T, x Y  masks A and B, shares of A B^T (keys) or A B (values), B being all of the cache so far
    SquareNeed      x * x       mask A, shares of A * A
    ScaleRowsNeed   b_r x_r     masks A of the rows and B of their factors, shares of B_r A_r
    CentreNeed      |x_r|^2, b_r x_r   as ScaleRowsNeed, and shares of the row sums of A * A: one mask of the rows for both
    MultiplyNeed    x * y       masks A and B, shares of A * B

Legend: H heads, T rows of this pass, S keys, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.plan.attention_operations import (
    Divide,
    Kernel,
    Mix,
    PowerKernel,
    Prepend,
    Rotate,
    Scores,
)
from hushlm.plan.lookup import Buckets, choose_buckets
from hushlm.plan.operations import (
    Activate,
    ActivatedGate,
    Embed,
    Gate,
    Normalise,
    Operation,
    Project,
    Reveal,
    RmsNormalise,
    ScaleRows,
    Step,
)
from hushlm.plan.passes import Plan, bucket_length, decode_plan, prefill_plan
from hushlm.plan.protocol_settings import SMALL_RING_BITS
from hushlm.plan.rewrites import HUSH, Rewrites
from hushlm.plan.step_names import Value
from hushlm.plan.wiring import server_tensors

__all__ = [
    "IDENTITY_BYTES",
    "MOST_ELEMENTS",
    "NEEDS_FORMAT",
    "SEED_BYTES",
    "AttendNeed",
    "CentreNeed",
    "LookUpNeed",
    "MultiplyNeed",
    "Need",
    "ProjectNeed",
    "ScaleNeed",
    "ScaleRowsNeed",
    "SquareNeed",
    "Where",
    "answer_needs",
    "answer_plans",
    "covers",
    "is_prepared",
    "left_to_engine",
    "operation_needs",
    "pass_needs",
]

NEEDS_FORMAT = 3
"""Another one where the same operations need something else: what was prepared before is of no use then, nor are its counts."""

IDENTITY_BYTES = 16
"""What both halves of an answer's material have in common, and no other material."""

SEED_BYTES = 32
"""What a party's masks of one answer are expanded from."""

MOST_ELEMENTS = 1 << 20
"""Single numbers that one call of the engine multiplies offline: about 1 GB of its memory."""


@dataclass(frozen=True)
class ProjectNeed:
    """(rows, inner) times the server's tensor `weight` (inner, outer), modulo 2^ring_bits."""

    weight: str
    rows: int
    inner: int
    outer: int
    ring_bits: int = 64


@dataclass(frozen=True)
class LookUpNeed:
    """Rows of the server's tensor `weight` (vocabulary, width) that the client chooses, modulo 2^32, by way of buckets.

    Attributes:
        rows: how many are chosen.
        buckets, slots: as `hushlm.plan.lookup.Buckets` has them.
    """

    weight: str
    rows: int
    vocabulary: int
    width: int
    buckets: int
    slots: int

    @property
    def dealt(self) -> Buckets:
        return Buckets(self.vocabulary, self.buckets, self.slots)

    @property
    def client_words(self) -> int:
        """What the client masks: the one-hot rows of all slots, and which slot each of the chosen rows is in."""
        return self.dealt.places * (self.dealt.columns + self.rows)

    @property
    def server_words(self) -> int:
        """What the server masks: its share of what is in the slots."""
        return self.dealt.places * self.width


@dataclass(frozen=True)
class ScaleNeed:
    """(heads, rows, width) times the server's numbers (heads, rows, 1)."""

    heads: int
    rows: int
    width: int


@dataclass(frozen=True)
class AttendNeed:
    """A product with a cache of keys or values.

    Attributes:
        cache: which.
        side: "keys", (H, T, E) times (H, S, E) transposed; "values", (H, T, S) times (H, S, E).
        heads, rows, width: H, T and E.
        before: how many rows of the cache were opened by earlier products of this answer; their masks are kept.
        new: how many rows of the cache this product opens.
        triangle: row t of "values" weighs its first t + 1 keys alone, the others being zero.
    """

    cache: str
    side: Literal["keys", "values"]
    heads: int
    rows: int
    width: int
    before: int
    new: int
    triangle: bool

    @property
    def opened(self) -> int:
        """Rows of the cache in the product."""
        return self.before + self.new

    @property
    def left_width(self) -> int:
        return self.width if self.side == "keys" else self.opened


@dataclass(frozen=True)
class SquareNeed:
    """So many squares."""

    elements: int


@dataclass(frozen=True)
class ScaleRowsNeed:
    """Each of (rows, width) times a shared number of its own."""

    rows: int
    width: int


@dataclass(frozen=True)
class CentreNeed:
    """Squared lengths of (rows, width), and each row times a shared number of its own."""

    rows: int
    width: int


@dataclass(frozen=True)
class MultiplyNeed:
    """So many products of two shared numbers."""

    elements: int


Need = ProjectNeed | LookUpNeed | ScaleNeed | AttendNeed | SquareNeed | ScaleRowsNeed | CentreNeed | MultiplyNeed


@dataclass(frozen=True)
class Where:
    """What an operation's needs depend on besides its sizes.

    Attributes:
        weight: name of the server's tensor that it multiplies with; "" without one.
        cache: name of its keys or values; "" without.
        before: rows of that cache that were opened before.
        heads: of the model.
    """

    weight: str = ""
    cache: str = ""
    before: int = 0
    heads: int = 1


def operation_needs(operation: Operation, where: Where) -> tuple[Need, ...]:
    """Needs of one operation, in the order in which it uses them up."""
    match operation:
        case Embed(rows, vocabulary, width):
            dealt = choose_buckets(rows, vocabulary, width)
            if dealt is None:
                return (ProjectNeed(where.weight, rows, vocabulary, width, SMALL_RING_BITS),)
            return (LookUpNeed(where.weight, rows, vocabulary, width, dealt.count, dealt.slots),)
        case Normalise(rows, width, affine) | RmsNormalise(rows, width, affine):
            return () if affine else (CentreNeed(rows, width), MultiplyNeed(rows), *(MultiplyNeed(2 * rows),) * 2)
        case Project(rows, inner, outer):
            return (ProjectNeed(where.weight, rows, inner, outer),)
        case ScaleRows(rows, width):
            return (ScaleNeed(where.heads, rows, width // where.heads),)
        case Rotate() | Prepend() | Reveal():
            return ()
        case Scores(heads, rows, keys, head_width):
            new, triangle = (rows // operation.groups, False) if where.before else (keys, operation.is_triangle and keys > 1)
            return (AttendNeed(where.cache, "keys", heads, rows, head_width, where.before, new, triangle),)
        case Kernel() | PowerKernel():
            return (SquareNeed(operation.elements),) * operation.squarings
        case Mix(heads, rows, keys, head_width):
            new, triangle = (rows // operation.groups, False) if where.before else (keys, operation.is_triangle and keys > 1)
            return (AttendNeed(where.cache, "values", heads, rows, head_width, where.before, new, triangle),)
        case Divide(heads, rows, width, polynomial=polynomial):
            sums = heads * rows
            inverse = (SquareNeed(sums), MultiplyNeed(sums), MultiplyNeed(sums)) if polynomial else ()
            return (*inverse, ScaleRowsNeed(sums, width))
        case Activate(rows, width, kind):
            squares = {"relu": 0, "squared-relu": 1, "polynomial": 1, "square": 1, "gelu-quartic": 2, "gelu-tanh": 0}
            return (SquareNeed(rows * width),) * squares[kind]
        case Gate(rows, width):
            return (MultiplyNeed(rows * width),)
        case ActivatedGate(rows, width, kind):
            count = {"silu-quadratic": 1, "silu-quartic": 2, "silu-tanh": 0}[kind]
            return (*(SquareNeed(rows * width),) * count, MultiplyNeed(rows * width))
        case _:
            assert_never(operation)


def _where(plan: Plan, step: Step, opened: MutableMapping[str, int]) -> Where:
    """Names of tensors and caches, as the generator gives them to variables."""
    match step.operation:
        case Embed() | Project():
            return Where(weight=server_tensors(plan, step)[0].name)
        case Scores() | Mix():
            part = Value.KEYS if isinstance(step.operation, Scores) else Value.VALUES
            cache = f"{step.layer}.cache.{part}"
            return Where(cache=cache, before=opened.get(cache, 0))
        case _:
            return Where(heads=plan.shape.heads)


def pass_needs(plan: Plan, opened: MutableMapping[str, int]) -> Iterator[tuple[Step, tuple[Need, ...]]]:
    """Needs of one pass, step by step.

    Args:
        opened: rows of each cache that earlier passes of the answer opened; brought up to date.
    """
    for step in plan.steps:
        needs = operation_needs(step.operation, _where(plan, step, opened))
        for need in needs:
            if isinstance(need, AttendNeed):
                opened[need.cache] = need.opened
        yield step, needs


def answer_plans(
    architecture: Architecture,
    shape: ModelShape,
    prompt_bucket: int,
    new_tokens: int,
    reveal: Reveal | None = None,
    rewrites: Rewrites = HUSH,
    draft: int = 0,
) -> list[Plan]:
    """The passes of an answer, good for every prompt whose length is rounded up to `prompt_bucket`.

    Further tokens are taken as those of the longest such prompt, whose cache is the longest. With `draft` tokens guessed in each further
    pass there are as many passes as without, because every guess may be wrong, and each is as long as if all before had been right.

    Raises:
        ValueError: if there is no such prompt, or none that leaves room for the tokens.
    """
    if new_tokens < 1 or prompt_bucket != bucket_length(prompt_bucket, shape.context) or new_tokens >= shape.context:
        raise ValueError(
            f"Nothing can be prepared for prompts of {prompt_bucket} tokens and answers of {new_tokens}: the prompt's length must be "
            f"a whole bucket, and both must fit the context of {shape.context}."
        )
    plans = [prefill_plan(architecture, shape, prompt_bucket, reveal, rewrites)]
    for index in range(1, new_tokens):
        known = 1 + min((index - 1) * (draft + 1), new_tokens - 2)
        keys = bucket_length(min(prompt_bucket + known + draft, shape.context), shape.context)
        plans.append(decode_plan(architecture, shape, keys, reveal, rewrites, draft + 1))
    return plans


def answer_needs(
    architecture: Architecture, shape: ModelShape, prompt_bucket: int, new_tokens: int, rewrites: Rewrites = HUSH, draft: int = 0
) -> list[list[Need]]:
    """Needs of an answer, one list a pass of `answer_plans`, which also says what is refused."""
    opened: dict[str, int] = {}
    plans = answer_plans(architecture, shape, prompt_bucket, new_tokens, None, rewrites, draft)
    return [[need for _, needs in pass_needs(plan, opened) for need in needs] for plan in plans]


def covers(prepared: Need, need: Need) -> bool:
    """Whether what was prepared is what is needed.

    Of squares there may be more: a longer prompt would have needed them. Of a product there may be more columns: those of the candidates
    are taken out of the head's.
    """
    if isinstance(prepared, SquareNeed) and isinstance(need, SquareNeed):
        return need.elements <= prepared.elements
    if isinstance(prepared, ProjectNeed) and isinstance(need, ProjectNeed):
        return need.outer <= prepared.outer and replace(need, outer=prepared.outer) == prepared
    return prepared == need


def left_to_engine(plan: Plan) -> list[str]:
    """Names of the steps that have no prepared form: the engine computes them online as it does today."""
    return [step.name for step in plan.steps if not is_prepared(step.operation)]


def is_prepared(operation: Operation) -> bool:
    """Whether an operation has a prepared form; the published forms of LayerNorm with gain and of GELU by tanh have none."""
    match operation:
        case Normalise(affine=affine) | RmsNormalise(affine=affine):
            return not affine
        case ActivatedGate(kind=kind):
            return kind != "silu-tanh"
        case Activate(kind=kind):
            return kind != "gelu-tanh"
        case Reveal(kind=kind):
            return kind != "topk"
        case _:
            return True
