"""An experiment: rows that are tuned and measured alike and shown beside each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from hushlm.config import RunConfig

__all__ = ["ONE_RATE", "Changes", "Experiment", "FigureKind", "Row", "with_changes"]

Changes = tuple[tuple[str, Any], ...]
"""Settings that differ from a base's, as (dotted name, value)."""

ONE_RATE = "one rate for all"
"""Label of the rows that share a learning rate."""

FigureKind = Literal["perplexity", "shares", "heat maps", "courses", "thresholds", "shares by tolerance"]


@dataclass(frozen=True)
class Row:
    """One row of a table, or one panel of a figure.

    Attributes:
        architecture: its name; `{half}` in it stands for half of the layers.
        changes: the settings that differ from the base's.
        label: what tells the row from others of the same architecture; "" for a plain row.
        stress: whether it runs at the scale's divergence setting (deep, fast, and unclipped unless changed) instead of being tuned. Such
            a row either ends well or is stopped, and has no perplexity.
        retuned: whether its changes make it another model, so that learning rates are tried with them. Otherwise it takes over the
            learning rate of the same architecture without changes.
        rate: a given learning rate, in place of the best one tried.
        seeds: how many seeds it has, in place of the study's number.
        one_rate: whether it has the learning rate that is best for all such rows of its experiment together, in place of its own best one.
        trial: the number of the contest's trial that found it; None for a row that was not found by a search.
    """

    architecture: str
    changes: Changes = ()
    label: str = ""
    stress: bool = False
    retuned: bool = False
    rate: float | None = None
    seeds: int | None = None
    one_rate: bool = False
    trial: int | None = None

    def name(self, layers: int) -> str:
        """The architecture in a model of so many layers."""
        return self.architecture.replace("{half}", str(layers // 2))


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Attributes:
        name: what the command line calls it.
        title: what it shows.
        rows: in the order shown; the first is the baseline that others are compared with.
        figures: the kinds of pictures drawn.
        depth_factor, context_factor: how many times as deep, and as long, as at the scale's base.
        corpus: what is read in place of the base's corpus.
        one_rate_too: architectures of rows that a scale may show a second time, all at one learning rate, as the paper trained them.
        published: which published rows stand beside ours: "table2", "normalisation", "shares", the `table` of some rows in pi_cost.csv, or
            "" for none.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    figures: tuple[FigureKind, ...] = ()
    depth_factor: float = 1.0
    context_factor: int = 1
    corpus: str | None = None
    one_rate_too: tuple[str, ...] = ()
    published: str = ""

    def with_one_rate(self) -> Experiment:
        """The experiment with the rows for which that is foreseen again, at one learning rate for all of them."""
        again = tuple(replace(row, label=ONE_RATE, one_rate=True) for row in self.rows if row.architecture in self.one_rate_too)
        return replace(self, rows=(*self.rows, *again))

    def sized(self, base: RunConfig) -> RunConfig:
        """A scale's base at this experiment's sizes. The batch shrinks as the context grows, so that a step has equally many tokens."""
        shape = replace(base.shape, layers=round(base.shape.layers * self.depth_factor), context=base.shape.context * self.context_factor)
        training = replace(base.training, batch=max(1, base.training.batch // self.context_factor))
        data = replace(base.data, corpus=self.corpus) if self.corpus else base.data
        return replace(base, shape=shape, training=training, data=data)


def with_changes(config: RunConfig, changes: Changes) -> RunConfig:
    """A config with some of its settings replaced.

    Raises:
        ValueError: for a setting that does not exist or a value it cannot have.
    """
    values = config.to_dict()
    for name, value in changes:
        section = values
        *path, last = name.split(".")
        for part in path:
            section = section.get(part, {})
        if last not in section:
            raise ValueError(f"There is no setting {name}.")
        section[last] = value
    return RunConfig.from_dict(values)
