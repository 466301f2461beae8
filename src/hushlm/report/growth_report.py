"""How prices grow, as tables, figures and JSON: the same for `hushlm cost --growth` and docs/cost.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.growth import LONGEST, growth_by_size, growth_by_tokens, growth_of_shapes, powers_of_two
from hushlm.cost.network import Network
from hushlm.report.cost_tables import answers_table, shapes_table, sizes_table
from hushlm.report.table import Table
from hushlm.shapes import KNOWN_SHAPES

__all__ = ["GrowthReport"]

Rows = Sequence[Mapping[str, Any]]
LARGE = "7B"
SYMBOLS = {"context": "context T", "layers": "layers L", "heads": "heads H", "width": "width D", "vocabulary": "vocabulary V"}


@dataclass(frozen=True)
class GrowthReport:
    """Rows of `cost.growth` for one architecture.

    Attributes:
        architecture, shape: what grows.
        prompt: tokens before the answers.
        by_size: one size of `shape` changed at a time.
        answers: by shape's name, growing numbers of new tokens with the key-value cache and without.
        shapes: known shapes at growing contexts.
    """

    architecture: Architecture
    shape: ModelShape
    prompt: int
    by_size: Rows
    answers: Mapping[str, Rows]
    shapes: Rows

    @staticmethod
    def make(architecture: Architecture, shape: ModelShape, network: Network, longest: int = LONGEST) -> GrowthReport:
        """Price everything.

        Args:
            longest: tokens of prompt and answer together, for `shape` and a 7B model.
        """
        prompt = max(1, min(shape.context // 2, longest - 1))
        counts = powers_of_two(longest - prompt)
        answers = {
            name: growth_by_tokens(architecture, of, prompt, counts, network)
            for name, of in (("this shape", shape), (LARGE, KNOWN_SHAPES[LARGE]))
            if architecture.removed_ffns <= of.layers
        }
        return GrowthReport(
            architecture,
            shape,
            prompt,
            growth_by_size(architecture, shape, network),
            answers,
            growth_of_shapes(architecture, network=network),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `by_tokens` is of the asked shape."""
        return {
            "architecture": str(self.architecture),
            "shape": self.shape.to_dict(),
            "prompt": self.prompt,
            "by_size": self.by_size,
            "by_tokens": self.answers["this shape"],
            "by_tokens_of": self.answers,
            "shapes": self.shapes,
        }

    def tables(self) -> list[Table]:
        """By size, answers, known shapes."""
        name = str(self.architecture)
        answers = [answers_table(f"{name}, {of}", self.prompt, rows) for of, rows in self.answers.items()]
        return [sizes_table(name, self.by_size), *answers, shapes_table(name, self.shapes)]

    def write(self, folder: Path) -> list[Path]:
        """Write growth-sizes.png, growth-answers.png and growth-contexts.png.

        Returns: their paths.
        """
        # Drawing is heavy, and tables do not need it.
        from hushlm.report.cost_figures import Curve, curves_figure
        from hushlm.report.figures import save_figure

        def points(rows: Rows, x: str, y: str = "bytes") -> list[tuple[float, float]]:
            return [(row[x], row[y]) for row in rows]

        sizes = [
            (label, [Curve("one token", points([row for row in self.by_size if row["size"] == size], "value"))])
            for size, label in SYMBOLS.items()
        ]
        answers = [
            curve
            for of, rows in self.answers.items()
            for curve in (
                Curve(f"{of}, keys and values kept", points(rows, "new_tokens")),
                Curve(f"{of}, a whole pass each", points(rows, "new_tokens", "bytes_without_cache")),
            )
        ]
        names = list(dict.fromkeys(row["shape"] for row in self.shapes))
        contexts = [
            (label, [Curve(name, points([row for row in self.shapes if row["shape"] == name], "context", key)) for name in names])
            for label, key in (
                ("context T, first token", "bytes"),
                ("context T, a further token, keys and values kept", "further_token_bytes"),
            )
        ]
        return [
            save_figure(curves_figure(sizes, across=2), folder / "growth-sizes.png"),
            save_figure(curves_figure([(f"new tokens after a prompt of {self.prompt}", answers)]), folder / "growth-answers.png"),
            save_figure(curves_figure(contexts), folder / "growth-contexts.png"),
        ]
