"""What running a compiled program costs beside the work of its primitives.

The engine reads the program's text anew at each run, and every message takes a little time of its own. In small models this is a large
part: the program of an attention kernel has some two hundred lines, however few tokens it works on.
"""

from __future__ import annotations

from typing import assert_never

from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
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
    PowerKernel,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
)

__all__ = ["overhead_seconds", "program_lines"]


def overhead_seconds(exchange: Exchange, lines: int, constants: Constants) -> float:
    """The seconds that the messages of a step and the lines of its program take. What asks for transfers has its own seconds."""
    messages = exchange.forward_messages + exchange.back_messages - exchange.asks
    return messages * constants.message_seconds + lines * constants.line_seconds


def _rounds(n: int) -> int:
    """The rounds of a tournament of n numbers."""
    return (n - 1).bit_length()


def program_lines(operation: Operation) -> int:
    """About how many lines the compiled program of a step has; a test compares this with the programs themselves."""
    match operation:
        case Embed() | Project():
            inner = operation.vocabulary if isinstance(operation, Embed) else operation.inner
            parts = -(-operation.rows // operation.cut.rows) * -(-inner // operation.cut.columns)
            return 14 + 6 * (parts - 1)
        case Normalise() | RmsNormalise():
            blocks = sum(-(-operation.rows // block) for block in (operation.squares_block, operation.scaling_block) if block)
            return (36 if isinstance(operation, Normalise) else 29) + 8 * blocks
        case ScaleRows():
            return 10
        case Prepend():
            return 8
        case Rotate():
            return 85
        case Scores() | Mix():
            return 16 + 5 * operation.heads if operation.joined else 8
        case Kernel():
            return 65 + 14 * _rounds(operation.keys) if operation.rows == 1 else 52 + 35 * _rounds(operation.keys)
        case PowerKernel():
            return 40 + 6 * operation.squarings
        case Divide():
            blocks = -(-operation.heads * operation.rows // operation.block) if operation.block else 0
            return (74 + 16 * _rounds(round(operation.largest / operation.smallest)) if operation.polynomial else 12) + 10 * blocks
        case Activate():
            return {"relu": 10, "squared-relu": 18, "polynomial": 36, "square": 12}.get(operation.kind, 58)
        case Gate():
            return 10
        case ActivatedGate():
            return {"silu-quadratic": 44, "silu-quartic": 66}.get(operation.kind, 24)
        case Reveal():
            return 6 if operation.kind == "logits" else (34 * _rounds(operation.vocabulary) - 16) * operation.top
        case _:
            assert_never(operation)
