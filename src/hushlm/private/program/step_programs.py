"""The steps of a plan as programs that can be compiled or run.

A step's program is the arithmetic of its operation (`hushlm.private.program.steps`) and what `hushlm.plan.wiring` says surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, assert_never

from hushlm.plan import Plan, ServerTensor, Step, Surroundings, Value, server_tensors, wiring
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
    operation, wired, heads = step.operation, wiring(plan, step), plan.shape.heads
    key: tuple[Any, ...]
    match wired.surroundings:
        case Surroundings.NONE:
            key = (operation,)
        case Surroundings.SPLIT_HEADS:
            key = (operation, step.name)
        case Surroundings.RESIDUAL:
            key = (operation, False, "residual")
        case Surroundings.MERGED_HEADS_RESIDUAL:
            key = (operation, True, "residual")
        case _:
            assert_never(wired.surroundings)

    def build(xp: ModuleType) -> Arithmetic:
        return _surrounded(arithmetic(operation, xp), wired.surroundings, heads, len(wired.writes))

    return StepProgram(build, key, wired.reads, wired.writes, server_tensors(plan, step))


def _surrounded(program: Arithmetic, surroundings: Surroundings, heads: int, outputs: int) -> Arithmetic:
    """The program of an operation with what is done before and after it."""
    match surroundings:
        case Surroundings.NONE:
            return program
        case Surroundings.SPLIT_HEADS:
            return lambda *arguments: _split_heads(program(*arguments), heads, outputs)
        case Surroundings.RESIDUAL:
            return lambda y, x, *tensors: x + program(y, *tensors)
        case Surroundings.MERGED_HEADS_RESIDUAL:
            return lambda y, x, *tensors: x + program(_merge_heads(y), *tensors)
        case _:
            assert_never(surroundings)


def _split_heads(x_TN: Array, heads: int, parts: int) -> Array | tuple[Array, ...]:
    """(T, parts x D) -> as many arrays (H, T, E) as there are parts; a single one is not put into a tuple."""
    rows, columns = x_TN.shape
    width = columns // parts
    split = x_TN.reshape(rows, parts, heads, width // heads).transpose(1, 2, 0, 3)
    return tuple(split[i] for i in range(parts)) if parts > 1 else split[0]


def _merge_heads(o_HTE: Array) -> Array:
    """(H, T, E) -> (T, D)."""
    heads, rows, head_width = o_HTE.shape
    return o_HTE.transpose(1, 0, 2).reshape(rows, heads * head_width)
