"""Where a private program runs: on the two-party engine, or as its float64 reference in numpy.

Both keep named values and run the same array programs on them, so the pass itself is written once (`program`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from hushlm.private.engine import Engine, Executable, Party, compile_program
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.steps import Arithmetic

__all__ = ["Backend", "EngineBackend", "ReferenceBackend"]

Shape = tuple[int, ...]


class Backend(Protocol):
    """Named values of two owners, and programs on them. `None` stands for a value this process must not know."""

    knows_client: bool
    knows_server: bool

    def put(self, name: str, owner: Party, shape: Shape, value: np.ndarray | None) -> None: ...

    def put_public(self, name: str, value: np.ndarray) -> None: ...

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic: ...

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]: ...


class EngineBackend:
    """Values as shares of the engine. Programs are compiled once a shape and kept; `compilations` counts them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, Shape] = {}
        self._compiled: dict[Hashable, tuple[Executable, list[Shape]]] = {}
        self.knows_client = engine.settings.simulate or engine.party is Party.CLIENT
        self.knows_server = engine.settings.simulate or engine.party is Party.SERVER

    @property
    def compilations(self) -> int:
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
        executable, results = self._compile((key, *shapes), build, shapes, [name in public for name in inputs])
        assert len(results) == len(outputs)
        self._shapes |= dict(zip(outputs, results, strict=True))
        return self._engine.run(executable.renamed(inputs, outputs))

    def _compile(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], shapes: list[Shape], public: list[bool]
    ) -> tuple[Executable, list[Shape]]:
        if key not in self._compiled:
            import jax
            import jax.numpy as jnp

            function = build(jnp)
            arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
            # Under a trace public arguments are traced too, so masks are arrays in the program, not constants.
            traced: Any = jax.eval_shape(function, *arguments)
            results = [result.shape for result in (traced if isinstance(traced, tuple) else (traced,))]
            executable = compile_program(function, shapes, len(results), "step", [i for i, known in enumerate(public) if known])
            self._compiled[key] = (executable, results)
        return self._compiled[key]

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        return self._engine.reveal(name, to)


class ReferenceBackend:
    """The same programs in float64 numpy: exponentials exact, no fixed point. What the private program means.

    Args:
        fraction_bits: round every input and every step's result to this many, to see what fixed point will do; None for exact.

    Attributes:
        largest: size of the largest number that a step has resulted in; NaN once there is one.
    """

    knows_client = True
    knows_server = True

    def __init__(self, fraction_bits: int | None = None) -> None:
        self._values: dict[str, np.ndarray] = {}
        self._scale = None if fraction_bits is None else 2.0**fraction_bits
        self.largest = 0.0

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
        results = build(np)(*(self._values[name] for name in inputs))
        results = results if isinstance(results, tuple) else (results,)
        self._values |= {name: self._rounded(result) for name, result in zip(outputs, results, strict=True)}
        self.largest = float(np.max([self.largest, *(np.abs(result).max() for result in results)]))
        return Traffic()

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        return self._values[name], Traffic()
