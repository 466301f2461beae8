"""Where a private program runs: on the two-party engine, or in numpy as its float64 reference.

Both keep named values and run the same array programs on them, so that a pass is written only once, in
`hushlm.private.program.generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from hushlm.plan import Divide, Normalise, RmsNormalise
from hushlm.private.engine import Engine, Executable, Party, compile_program
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.steps import Arithmetic

__all__ = ["Backend", "EngineBackend", "ReferenceBackend"]

Shape = tuple[int, ...]


class Backend(Protocol):
    """Keeps named values of two owners, and runs programs on them. `None` stands for a value that this process must not know.

    Attributes:
        knows_client: whether this process knows the client's values.
        knows_server: whether this process knows the server's values.
    """

    knows_client: bool
    knows_server: bool

    def put(self, name: str, owner: Party, shape: Shape, value: np.ndarray | None) -> None:
        """Keep a value of one owner; `value` is None where this process must not know it."""

    def put_public(self, name: str, value: np.ndarray) -> None:
        """Keep a value that both parties know."""

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        """Run a program on named values, keep its results, and return what this party sent and received.

        Args:
            key: the same for equal programs, which are compiled only once; other sessions on this machine may have done so
                (`Engine.compiled`).
            build: makes the program for an array namespace.
            inputs: the names of the program's arguments.
            outputs: the names under which its results are kept.
            public: those of the `inputs` that both parties know.
        """
        ...

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        """Open a value to one party: the array there, None at the other party, and what was sent and received."""
        ...


class EngineBackend:
    """Keeps values as shares of the engine. Programs are compiled once for each shape and kept; `compilations` counts them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, Shape] = {}
        self._compiled: dict[Hashable, Executable] = {}
        self.knows_client = engine.settings.simulate or engine.party is Party.CLIENT
        self.knows_server = engine.settings.simulate or engine.party is Party.SERVER

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return len(self._compiled)

    def put(self, name: str, owner: Party, shape: Shape, value: np.ndarray | None) -> None:
        self._engine.put(name, owner, shape, value)
        self._shapes[name] = shape

    def put_public(self, name: str, value: np.ndarray) -> None:
        self._engine.put_public(name, value)
        self._shapes[name] = value.shape

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        shapes = [self._shapes[name] for name in inputs]
        executable = self._compile((key, *shapes), build, shapes, [name in public for name in inputs])
        self._shapes |= dict(zip(outputs, executable.shapes, strict=True))
        return self._engine.run(executable.renamed(inputs, outputs))

    def _compile(self, key: Hashable, build: Callable[[ModuleType], Arithmetic], shapes: list[Shape], public: list[bool]) -> Executable:
        if key not in self._compiled:
            known = tuple(i for i, is_known in enumerate(public) if is_known)
            self._compiled[key] = self._engine.compiled(("step", key, known), lambda: _compile(build, shapes, known))
        return self._compiled[key]

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        return self._engine.reveal(name, to)


def _compile(build: Callable[[ModuleType], Arithmetic], shapes: list[Shape], public: tuple[int, ...]) -> Executable:
    import jax
    import jax.numpy as jnp

    function = build(jnp)
    # Public arguments are traced as well, so that masks are arguments of the program and not constants in it.
    traced: Any = jax.eval_shape(function, *(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    results = tuple(result.shape for result in (traced if isinstance(traced, tuple) else (traced,)))
    return replace(compile_program(function, shapes, len(results), "step", public), shapes=results)


class ReferenceBackend:
    """Runs the same programs in numpy with float64 and exact exponentials, and so defines what the private program computes.

    Args:
        fraction_bits: how many fraction bits every input and every step's result is rounded to, which shows what fixed-point numbers
            will do; None for no rounding.

    Attributes:
        largest: the largest absolute value in the result of any step so far, and of the sums of squares inside norms; NaN after a step
            whose result had one.
        largest_divisor: the largest sum of attention weights so far, as a share of the largest that its reciprocal is made for.
    """

    knows_client = True
    knows_server = True

    def __init__(self, fraction_bits: int | None = None) -> None:
        self._values: dict[str, np.ndarray] = {}
        self._scale = None if fraction_bits is None else 2.0**fraction_bits
        self.largest = self.largest_divisor = 0.0

    def _rounded(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value, np.float64)
        return value if self._scale is None else np.round(value * self._scale) / self._scale

    def put(self, name: str, owner: Party, shape: Shape, value: np.ndarray | None) -> None:
        assert value is not None
        assert value.shape == shape
        self._values[name] = self._rounded(value)

    def put_public(self, name: str, value: np.ndarray) -> None:
        self._values[name] = np.asarray(value, np.float64)

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        operation = key[0] if isinstance(key, tuple) else None
        if isinstance(operation, Normalise | RmsNormalise):
            x = self._values[inputs[0]]
            centred = x - x.mean(-1, keepdims=True) if isinstance(operation, Normalise) else x
            self.largest = float(np.max([self.largest, np.square(centred).sum(-1).max()]))
        if isinstance(operation, Divide):
            self.largest_divisor = float(np.max([self.largest_divisor, self._values[inputs[1]].max() / operation.largest]))
        results = build(np)(*(self._values[name] for name in inputs))
        results = results if isinstance(results, tuple) else (results,)
        self._values |= {name: self._rounded(result) for name, result in zip(outputs, results, strict=True)}
        self.largest = float(np.max([self.largest, *(np.abs(result).max() for result in results)]))
        return Traffic()

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        return self._values[name], Traffic()
