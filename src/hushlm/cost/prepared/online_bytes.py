"""What the online forms move, as a formula: the words that are opened, exactly, and so many bytes an element of what the engine does.

The engine's prices are facts of Cheetah (SPU 0.9.5), counted between two processes with stocks of oblivious transfers in hand; refills of
stocks (about 1.06 MB for each 1.0 to 1.3 million transfers) come on top. Bytes are both directions, payload alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from hushlm.plan import (
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    Normalise,
    Operation,
    Plan,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
    halvings,
    row_lengths,
)
from hushlm.plan.needs import (
    AttendNeed,
    CentreNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
    pass_needs,
)
from hushlm.plan.protocol_settings import SMALL_RING_BITS

__all__ = ["OnlineBytes", "online_bytes", "opened_bytes"]

TRUNCATION = 3.125
SMALL_COMPARISON = 40.5
SMALL_SELECTION = 8.25
SELECTION = 16.25
WORD = 8


@dataclass(frozen=True)
class OnlineBytes:
    """Bytes of one step, both directions.

    Attributes:
        opened: words that the parties send each other by the online forms, exact.
        engine: truncations, comparisons and selections.
        inverse_roots: so many are left to the engine's own program, whose bytes are not in `engine`.
    """

    opened: int = 0
    engine: float = 0.0
    inverse_roots: int = 0

    @property
    def total(self) -> float:
        return self.opened + self.engine


def opened_bytes(need: Need) -> tuple[int, int]:
    """What the client sends to open what a need masks, and what the server sends."""
    match need:
        case ProjectNeed(_, rows, inner, ring_bits=ring_bits):
            return rows * inner * ring_bits // 8, 0
        case ScaleNeed(heads, rows, width):
            return WORD * heads * rows * width, WORD * heads * rows
        case AttendNeed(_, side, heads, rows, width, _, new, triangle):
            kept = rows * (rows + 1) // 2 if side == "values" and triangle else rows * need.left_width
            words = heads * (kept + new * width)
        case SquareNeed(elements):
            words = elements
        case ScaleRowsNeed(rows, width) | CentreNeed(rows, width):
            words = rows * width + rows
        case MultiplyNeed(elements):
            words = 2 * elements
        case _:
            assert_never(need)
    return WORD * words, WORD * words


def engine_bytes(operation: Operation, fraction_bits: int) -> float:
    """What the engine moves for an operation's online form, inverse roots not included."""

    def widened(elements: int, bits: int = 0) -> float:
        return TRUNCATION * elements * -(-(SMALL_RING_BITS + bits) // fraction_bits)

    match operation:
        case Embed(rows, _, width):
            return widened(rows * width)
        case Normalise(rows, width):
            return TRUNCATION * (2 * rows + rows * width)
        case RmsNormalise(rows, width):
            return TRUNCATION * (rows + rows * width)
        case Project(rows, _, outer):
            return TRUNCATION * rows * outer
        case ScaleRows(rows, width):
            return TRUNCATION * rows * width
        case Rotate():
            return TRUNCATION * operation.entries
        case Prepend():
            return 0.0
        case Scores(heads, rows, keys):
            return TRUNCATION * heads * (rows * (rows + 1) // 2 if operation.is_triangle else rows * keys)
        case Kernel(heads):
            scores = operation.elements
            maxima = scores - heads * len(row_lengths(operation))
            comparisons = (SMALL_COMPARISON + SMALL_SELECTION) * (maxima + scores)
            return comparisons + widened(scores, operation.squarings) + TRUNCATION * scores * operation.squarings
        case Mix(heads, rows, _, head_width):
            return TRUNCATION * heads * rows * head_width
        case Divide(heads, rows, width, largest):
            sums, steps = heads * rows, halvings(largest)
            powers = steps * (SMALL_COMPARISON + 2 * SELECTION) + (TRUNCATION if steps else 0)
            # v, its square and cube, the last product, and the two linear combinations.
            return sums * (powers + 6 * TRUNCATION) + TRUNCATION * sums * width
        case Activate(rows, width, kind):
            each = {
                "relu": SMALL_COMPARISON + SELECTION,
                "squared-relu": SMALL_COMPARISON + SELECTION + TRUNCATION,
                "square": TRUNCATION,
                "polynomial": 2 * (SMALL_COMPARISON + SELECTION) + 2 * TRUNCATION,
                "gelu-quartic": 2 * (SMALL_COMPARISON + SELECTION) + SMALL_SELECTION + 3 * TRUNCATION,
            }
            return rows * width * each[kind]
        case Gate(rows, width):
            return TRUNCATION * rows * width
        case ActivatedGate(rows, width, kind):
            truncations = {"silu-quadratic": 3, "silu-quartic": 4}[kind]
            return rows * width * (2 * (SMALL_COMPARISON + SELECTION) + SMALL_SELECTION + truncations * TRUNCATION)
        case Reveal(kind=kind):
            if kind == "logits":
                return 0.0
            raise ValueError("The bytes of a private arg max are counted, not given by a formula.")
        case _:
            assert_never(operation)


def online_bytes(plan: Plan, opened: dict[str, int], fraction_bits: int = 18) -> dict[tuple[int | None, str], OnlineBytes]:
    """Bytes of every step of a pass by layer and name.

    Args:
        opened: rows of each cache that earlier passes opened, brought up to date; as `pass_needs` takes it.

    Raises:
        ValueError: for a plan whose answer is a private arg max or top-k.
    """
    found: dict[tuple[int | None, str], OnlineBytes] = {}
    for step, needs in pass_needs(plan, opened):
        sent = sum(sum(opened_bytes(need)) for need in needs)
        roots = step.operation.rows if isinstance(step.operation, Normalise | RmsNormalise) else 0
        found[step.layer, str(step.name)] = OnlineBytes(sent, engine_bytes(step.operation, fraction_bits), roots)
    return found
