"""The steps of a plan as programs that can be compiled or run.

A step's program is the arithmetic of its operation (`hushlm.private.program.steps`) and what `hushlm.plan.wiring` says surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, assert_never

from hushlm.config import ModelShape
from hushlm.plan import Plan, ServerTensor, Step, Surroundings, Value, Wiring, server_tensors, wiring
from hushlm.private.program.steps import Arithmetic, Array, arithmetic

__all__ = ["StepProgram", "step_program"]


@dataclass(frozen=True)
class StepProgram:
    """A step as a program.

    Attributes:
        build: makes the array program for an array namespace.
        key: the same for steps that share one compilation. Its repr is a key of results/gpt2-private-counts.json.
        inputs: the values that the program reads, in the order of its first arguments.
        outputs: the values that it writes, in the order of its results.
        tensors: the server's tensors, which are the program's last arguments.
    """

    build: Callable[[ModuleType], Arithmetic]
    key: tuple[Any, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tensors: tuple[ServerTensor, ...]

    @property
    def public(self) -> tuple[Value, ...]:
        """The inputs that both parties know."""
        return tuple(value for value in self.inputs if value.is_public)


def step_program(plan: Plan, step: Step) -> StepProgram:
    """The program of a step of this plan."""
    operation, wired, shape = step.operation, wiring(plan, step), plan.shape
    key: tuple[Any, ...]
    match wired.surroundings:
        case Surroundings.NONE:
            key = (operation,)
        case Surroundings.SPLIT_HEADS:
            key = (operation, step.name)
        case Surroundings.GROUPED_HEADS:
            key = (operation, "grouped heads")
        case Surroundings.RESIDUAL:
            key = (operation, False, "residual")
        case Surroundings.MERGED_HEADS_RESIDUAL:
            key = (operation, True, "residual")
        case _:
            assert_never(wired.surroundings)

    def build(xp: ModuleType) -> Arithmetic:
        return _surrounded(arithmetic(operation, xp), wired, shape)

    return StepProgram(build, key, wired.reads, wired.writes, server_tensors(plan, step))


def _surrounded(program: Arithmetic, wired: Wiring, shape: ModelShape) -> Arithmetic:
    """The program of an operation with what is done before and after it."""
    match wired.surroundings:
        case Surroundings.NONE:
            return program
        case Surroundings.SPLIT_HEADS:
            heads = [shape.heads if value is Value.QUERIES else shape.cache_heads for value in wired.writes]
            return lambda *arguments: _split_heads(program(*arguments), heads, shape.head_width)
        case Surroundings.GROUPED_HEADS:
            return lambda x_HTN, y_GSE: _by_head(program(_by_key_head(x_HTN, shape.cache_heads), y_GSE), shape.heads)
        case Surroundings.RESIDUAL:
            return lambda y, x, *tensors: x + program(y, *tensors)
        case Surroundings.MERGED_HEADS_RESIDUAL:
            return lambda y, x, *tensors: x + program(_merge_heads(y), *tensors)
        case _:
            assert_never(wired.surroundings)


def _split_heads(x_TN: Array, heads: Sequence[int], head_width: int) -> Array | tuple[Array, ...]:
    """(T, N) -> one array (H, T, E) for each number of heads; a single one is not put into a tuple."""
    parts, start = [], 0
    for count in heads:
        part = x_TN[:, start : start + count * head_width]
        parts.append(part.reshape(len(part), count, head_width).transpose(1, 0, 2))
        start += count * head_width
    return tuple(parts) if len(parts) > 1 else parts[0]


def _by_key_head(x_HTN: Array, key_heads: int) -> Array:
    """(H, T, N) -> (G, H/G T, N): the rows of the heads of queries that share a head of keys, behind one another."""
    return x_HTN.reshape(key_heads, -1, x_HTN.shape[-1])


def _by_head(x_GRN: Array, heads: int) -> Array:
    """The inverse of `_by_key_head`."""
    return x_GRN.reshape(heads, -1, x_GRN.shape[-1])


def _merge_heads(o_HTE: Array) -> Array:
    """(H, T, E) -> (T, D)."""
    heads, rows, head_width = o_HTE.shape
    return o_HTE.transpose(1, 0, 2).reshape(rows, heads * head_width)
