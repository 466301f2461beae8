"""Compiling array programs for the engine. Both parties compile the same programs, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hushlm.private.engine.mpc_library import load_engine

__all__ = ["Executable", "compile_program"]


@dataclass(frozen=True)
class Executable:
    """A compiled program. `renamed` makes the same program run on other variables.

    Attributes:
        native: the engine's own object.
        inputs, outputs: names of its variables.
        shapes: of its results, where they were asked for.
    """

    native: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def lines(self) -> int:
        """How many lines its text has, which the engine reads anew at every run."""
        return len(self.native.code.splitlines())

    def renamed(self, inputs: Sequence[str], outputs: Sequence[str]) -> Executable:
        """The same code on other variables, such as the weights of another layer. Nothing is compiled again."""
        assert (len(inputs), len(outputs)) == (len(self.inputs), len(self.outputs))
        _, libspu = load_engine()
        native = libspu.Executable(name=self.native.name, input_names=list(inputs), output_names=list(outputs), code=self.native.code)
        return Executable(native, tuple(inputs), tuple(outputs), self.shapes)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        code = self.native.code.decode()
        return {"name": self.native.name, "inputs": self.inputs, "outputs": self.outputs, "shapes": self.shapes, "code": code}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Executable:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: for something else.
        """
        _, libspu = load_engine()
        inputs, outputs = values["inputs"], values["outputs"]
        native = libspu.Executable(name=values["name"], input_names=inputs, output_names=outputs, code=values["code"].encode())
        return Executable(native, tuple(inputs), tuple(outputs), tuple(tuple(shape) for shape in values["shapes"]))


def compile_program(
    function: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    outputs: int,
    name: str,
    public: Collection[int] = (),
    kind: Any = np.float32,
) -> Executable:
    """Compile a JAX function of float32 arrays, or of another kind.

    Args:
        function: takes one array for each shape and returns one array, or a tuple of `outputs` arrays.
        shapes: the shapes of the arguments, which are all that a party needs to compile.
        outputs: how many arrays the function returns.
        name: the name that profiles show.
        public: the positions of the arguments that both parties know; the others are secret.
        kind: the type of the numbers in the arguments, one for all or one for each.
    """
    _, libspu = load_engine()
    import jax
    from spu.utils import frontend

    def named(*arguments: Any) -> Any:
        return function(*arguments)

    named.__name__ = name
    inputs = [f"in{i}" for i in range(len(shapes))]
    outs = [f"out{i}" for i in range(outputs)]
    kinds = list(kind) if isinstance(kind, (list, tuple)) else [kind] * len(shapes)
    native, _ = frontend.compile(
        frontend.Kind.JAX,
        named,
        [jax.ShapeDtypeStruct(shape, each) for shape, each in zip(shapes, kinds, strict=True)],
        {},
        inputs,
        [libspu.Visibility.VIS_PUBLIC if i in public else libspu.Visibility.VIS_SECRET for i in range(len(shapes))],
        lambda flat: outs,
    )
    return Executable(native, tuple(inputs), tuple(outs))
