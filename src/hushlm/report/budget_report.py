"""What a search within budgets of bytes found, as tables, figures and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushlm.architectures import Architecture
from hushlm.cost.budget import Candidate, SearchSpace, best_of_each_kind, further_token, pareto_front, search
from hushlm.cost.measured import MeasuredModel, price_measured, read_checkpoint, read_results
from hushlm.cost.network import Network
from hushlm.cost.pricing import Amount
from hushlm.files import write_atomic
from hushlm.plan import ProtocolSettings
from hushlm.report.cost_tables import frontier_table, measured_table
from hushlm.report.table import Table

__all__ = ["FrontierReport", "measured_models"]

SIZES: tuple[tuple[str, str, Callable[[Candidate], float]], ...] = (
    ("parameters", "parameters", lambda candidate: candidate.parameters),
    ("flops", "FLOPs of a pass", lambda candidate: candidate.flops),
)
"""The key, the label and the value of each measure of a model's size."""


def measured_models(checkpoints: str, results: str) -> list[MeasuredModel]:
    """Read every checkpoint and file of results that was named.

    Args:
        checkpoints: patterns of folders, separated by commas. What a pattern finds beside folders is left out.
        results: files of results, separated by commas.

    Raises:
        ValueError: where a pattern matches no folder, or something is not what it should be.
    """
    found = []
    for pattern in filter(None, checkpoints.split(",")):
        path = Path(pattern.strip())
        folders = sorted(folder for folder in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if folder.is_dir())
        if not folders:
            raise ValueError(f'There is no folder {path}: --checkpoints takes folders of trained models, like "runs/*".')
        found += [read_checkpoint(folder) for folder in folders]
    for name in filter(None, results.split(",")):
        found += read_results(Path(name.strip()))
    return found


@dataclass(frozen=True)
class FrontierReport:
    """Priced candidates, and measured models beside them.

    Attributes:
        candidates: every combination that was priced; empty where none was asked for.
        budgets: the budgets, in bytes.
        at_least: how many parameters the cheapest models shown must have; None where none are asked for.
        measured: models whose perplexity was measured, with their prices.
        network, protocol: what the prices are for.
    """

    candidates: Sequence[Candidate]
    budgets: Sequence[int]
    at_least: int | None
    measured: Sequence[tuple[MeasuredModel, Amount]]
    network: Network
    protocol: ProtocolSettings

    @staticmethod
    def make(
        space: SearchSpace,
        budgets: Sequence[int],
        at_least: int | None,
        measured: Sequence[MeasuredModel],
        network: Network,
        protocol: ProtocolSettings,
    ) -> FrontierReport:
        """Search and price.

        Raises:
            ValueError: for a search space in which nothing can be.
        """
        wanted = bool(budgets) or at_least is not None
        candidates = search(space, network, protocol) if wanted else []
        return FrontierReport(candidates, budgets, at_least, price_measured(measured, network, protocol), network, protocol)

    def largest(self, budget: int) -> list[Candidate]:
        """The largest model of each kind within a budget; of equally large ones the cheapest."""
        return best_of_each_kind(
            self.candidates,
            lambda candidate: (candidate.parameters, -candidate.amount.bytes),
            lambda candidate: candidate.amount.bytes <= budget,
        )

    def cheapest(self) -> list[Candidate]:
        """The cheapest model of each kind with at least so many parameters; of equally cheap ones the largest."""
        least = self.at_least or 0
        return best_of_each_kind(
            self.candidates,
            lambda candidate: (-candidate.amount.bytes, candidate.parameters),
            lambda candidate: candidate.parameters >= least,
        )

    def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """Measured models by what they were measured on, cheapest first, with whether they are on their task's Pareto front."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for task in dict.fromkeys(model.task for model, _ in self.measured):
            same = [(model, amount) for model, amount in self.measured if model.task == task]
            front = pareto_front(same, lambda pair: pair[1].bytes, lambda pair: -pair[0].perplexity)
            found = [{**model.to_dict(), **amount.to_dict(), "on_front": (model, amount) in front} for model, amount in same]
            rows[task] = sorted(found, key=lambda row: (row["bytes"], row["perplexity"]))
        return rows

    def tables(self) -> list[Table]:
        """Best of each kind for each budget and for the number of parameters, and measured models by task."""
        found = []
        for budget in self.budgets:
            found.append(self._table(f"Largest models within {budget / 1e9:g} GB", self.largest(budget)))
        if self.at_least is not None and self.candidates:
            found.append(self._table(f"Cheapest models of at least {self.at_least / 1e6:g} million parameters", self.cheapest()))
        for task, rows in self.tasks().items():
            found.append(measured_table(f"Measured: {task}", rows))
        return found

    def _table(self, title: str, chosen: Sequence[Candidate]) -> Table:
        context = self.candidates[0].shape.context
        note = (
            f"The best of {len(self.candidates):,} models, a row a kind. One private token after {context} tokens; "
            f"seconds on {self.network}."
        )
        if not chosen:
            cheapest = min(self.candidates, key=lambda candidate: candidate.amount.bytes)
            largest = max(self.candidates, key=lambda candidate: candidate.parameters)
            note = (
                f"None of {len(self.candidates):,} models: the cheapest takes {cheapest.amount.bytes / 1e6:,.1f} MB, the largest has "
                f"{largest.parameters / 1e6:,.1f} million parameters."
            )
        return frontier_table(title, self._rows(chosen), note)

    def _rows(self, chosen: Sequence[Candidate]) -> list[dict[str, Any]]:
        return [
            {**candidate.to_dict(), "further_token_bytes": further_token(candidate, self.network, self.protocol).bytes}
            for candidate in chosen
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values, every candidate included."""
        return {
            "network": str(self.network),
            "budgets": [{"bytes": budget, "largest": self._rows(self.largest(budget))} for budget in self.budgets],
            "parameters": self.at_least,
            "cheapest": self._rows(self.cheapest()) if self.at_least is not None else [],
            "fronts": {key: [candidate.to_dict() for candidate in self._front(self.candidates, value)] for key, _, value in SIZES},
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "measured": self.tasks(),
        }

    @staticmethod
    def _front(candidates: Sequence[Candidate], value: Callable[[Candidate], float]) -> list[Candidate]:
        return pareto_front(candidates, lambda candidate: candidate.amount.bytes, value)

    def write(self, folder: Path) -> list[Path]:
        """Write the figures, and frontier.json with every candidate.

        Returns: their paths.
        """
        path = folder / "frontier.json"
        write_atomic(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return [*self.write_figures(folder), path]

    def write_figures(self, folder: Path) -> list[Path]:
        """Write frontier.png (where models were searched) and perplexity.png (where some were measured).

        Returns: their paths.
        """
        # Drawing is heavy, and prices alone do not need it.
        from hushlm.report.cost_figures import Cloud, PerplexityPoint, frontier_figure, perplexity_figure
        from hushlm.report.figures import save_figure

        written = []
        if self.candidates:
            by_kind: dict[Architecture, list[Candidate]] = {}
            for candidate in self.candidates:
                by_kind.setdefault(candidate.kind, []).append(candidate)

            def cloud(kind: Architecture, value: Callable[[Candidate], float]) -> Cloud:
                def points(some: Sequence[Candidate]) -> list[tuple[float, float]]:
                    return [(candidate.amount.bytes, value(candidate)) for candidate in some]

                return Cloud(str(kind), points(by_kind[kind]), points(self._front(by_kind[kind], value)))

            panels = [(label, [cloud(kind, value) for kind in by_kind]) for _, label, value in SIZES]
            written.append(save_figure(frontier_figure(panels, self.budgets), folder / "frontier.png"))
        if self.measured:
            tasks = [
                (task, [PerplexityPoint(row["architecture"], row["bytes"], row["perplexity"], row["on_front"]) for row in rows])
                for task, rows in self.tasks().items()
            ]
            written.append(save_figure(perplexity_figure(tasks), folder / "perplexity.png"))
        return written
