"""What is run after the search, as rows of a study: every row is tuned and measured by the same rules as the paper's.

A row is the baseline's run with changes. "Training" below means what a search may choose of optimisation and initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hushlm.architectures import FeedForward, Norm, Temperature, parse
from hushlm.config import RunConfig
from hushlm.experiments.contest.models import Origin, models_from
from hushlm.experiments.contest.objective import OBJECTIVES, below
from hushlm.experiments.contest.search import Trial
from hushlm.experiments.experiment import Changes, Row
from hushlm.experiments.scales import BASELINE, ContestScale
from hushlm.experiments.study import RowOutcome
from hushlm.recommended import RECOMMENDED, Recommendation

__all__ = [
    "DISTILLED",
    "ablation_rows",
    "added_rows",
    "baseline_rows",
    "changes_of",
    "distillation_rows",
    "finalist_rows",
    "grown_rows",
    "model_of",
    "recommended_rows",
    "regularised_too",
    "regulariser_rows",
    "stability_rows",
    "without_twins",
]

_TRAINING = ("optimiser", "weight_decay", "init_std", "residual_init")
_CHOSEN_ELSEWHERE = {"training.steps", "training.evaluate_every", "training.learning_rate", "training.seed"}
_REGULARISED_FEED_FORWARDS = {"R": ("SM", "SM1", "SM2", "SM3"), "ScFuFFN": ("SM2",)}

DISTILLED = ", distilled"
"""What the label of a row that learns from a teacher has more than the label of the row that does not."""


def changes_of(config: RunConfig, base: RunConfig) -> Changes:
    """The settings of shape, training and regulariser in which a run differs from the base, without learning rate, length and seed."""
    found = []
    for section in ("shape", "training", "entropy"):
        before, after = base.to_dict()[section], config.to_dict()[section]
        found += [(f"{section}.{name}", value) for name, value in after.items() if value != before[name]]
    return tuple((name, value) for name, value in found if name not in _CHOSEN_ELSEWHERE)


def finalist_rows(trials: Sequence[Trial], scale: ContestScale) -> list[Row]:
    """The trial with the lowest validation loss below each of the objective's caps."""
    rows = []
    for cap in OBJECTIVES[scale.objective].caps:
        models = [trial for trial in trials if trial.config.architecture != BASELINE]
        allowed = [trial for trial in models if below(cap, trial.costs, trial.config.parsed_architecture)]
        if allowed:
            best = min(allowed, key=lambda trial: trial.loss_nats)
            changes, label = changes_of(best.config, scale.base), f"trial {best.number}"
            rows.append(Row(best.config.architecture, changes, label, retuned=True, trial=best.number))
    return list(dict.fromkeys(rows))


def baseline_rows(finalists: Sequence[Row], trials: Sequence[Trial]) -> list[Row]:
    """The baseline as the paper trains it, with the optimiser of the search's best finalist, and with all of that one's training.

    It gets what they got, because a gain of training is no gain of architecture.

    Args:
        finalists: rows of `finalist_rows`.
        trials: the search's, among them the finalists'.
    """
    loss_nats = {trial.number: trial.loss_nats for trial in trials}
    _, best = min(((loss_nats[row.trial], row) for row in finalists if row.trial is not None), key=lambda pair: pair[0])
    training = tuple((name, value) for name, value in best.changes if name.removeprefix("training.") in _TRAINING)
    optimiser = tuple(change for change in training if change[0] == "training.optimiser")
    rows = [Row(BASELINE)]
    if optimiser:
        rows.append(Row(BASELINE, optimiser, f"optimiser of {best.label}", retuned=True))
    if training and training != optimiser:
        rows.append(Row(BASELINE, training, f"training of {best.label}", retuned=True))
    return rows


def added_rows(scale: ContestScale) -> list[Row]:
    """What is tuned and measured beside the finalists: models picked by hand, or at another scale than micro the recommended ones."""
    if scale.objective == "online":
        return recommended_rows(scale, (*RECOMMENDED.values(), *models_from(Origin.WITHOUT_COMPARISON)))
    if scale.name == "micro":
        return recommended_rows(scale, models_from(Origin.BY_HAND))
    return recommended_rows(scale, (*RECOMMENDED.values(), *models_from(Origin.FORMERLY_RECOMMENDED, Origin.SMALL_SCALE)))


def grown_rows(scale: ContestScale) -> list[Row]:
    """What the search at the small scale brought up, at another scale."""
    return [] if scale.name != "micro" else recommended_rows(scale, models_from(Origin.SMALL_SCALE))


def recommended_rows(scale: ContestScale, points: Iterable[Recommendation]) -> list[Row]:
    """Models that are given at GPT-2 small's scale, at another scale."""
    return [Row(point.architecture, point.changes(scale.base.shape), point.name, retuned=True) for point in points]


def model_of(row: Row) -> tuple[str, frozenset[tuple[str, Any]]]:
    """What two rows of the same model and training have in common: all but label, learning rate, seeds and arithmetic."""
    return row.architecture, frozenset(change for change in row.changes if change[0] != "training.precision")


def without_twins(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same model and training become one, the first, with the labels of all."""
    found: dict[tuple[str, frozenset[tuple[str, Any]]], Row] = {}
    for row in rows:
        key = model_of(row)
        found[key] = replace(found[key], label=f"{found[key].label}, {row.label}") if key in found else row
    return list(found.values())


def ablation_rows(row: Row, rate: float, scale: ContestScale) -> list[Row]:
    """Copies of a row, each with one ingredient put back to the baseline's, at the row's own learning rate."""
    architecture = parse(row.architecture)
    baseline = parse(BASELINE)
    variants: dict[str, tuple[str, Changes]] = {}
    if architecture.kernel_order is not None:
        variants["exact softmax"] = (str(replace(architecture, kernel_order=None, power=False)), row.changes)
    if architecture.feed_forward is not baseline.feed_forward:
        variants["GELU"] = (str(replace(architecture, feed_forward=FeedForward.GELU)), row.changes)
    if architecture.norm is Norm.LAYER:
        variants["no LayerNorm"] = (str(replace(architecture, norm=Norm.NONE, query_key_norm=False)), row.changes)
    elif not architecture.feed_forward.is_scaled:
        variants["with LayerNorm"] = (
            str(replace(architecture, norm=Norm.LAYER, norm_layers="", final_norm=False)),
            row.changes,
        )
    if architecture.norm in (Norm.WEIGHT, Norm.SPECTRAL):
        variants["no static norm"] = (str(replace(architecture, norm=Norm.NONE, norm_layers="")), row.changes)
    if architecture.temperature is not Temperature.NONE:
        variants["no temperature"] = (str(replace(architecture, temperature=Temperature.NONE)), row.changes)
    if architecture.entropy_regularised:
        variants["no EReg"] = (str(architecture.without_regulariser()), row.changes)
    for name, value in row.changes:
        if name.startswith("entropy."):
            continue
        section, setting = name.split(".")
        before = scale.base.to_dict()[section][setting]
        variants[f"{setting} {before} instead of {value:g}" if isinstance(value, float) else f"{setting} {before} instead of {value}"] = (
            row.architecture,
            tuple(change for change in row.changes if change[0] != name),
        )
    return [Row(name, changes, label, rate=rate) for label, (name, changes) in variants.items()]


def regulariser_rows(scale: ContestScale) -> list[Row]:
    """Every kernel with and without the regulariser, at the base's shape and learning rate."""
    rate = scale.base.training.learning_rate
    names = [f"{kernel}+{ffn}" for ffn, kernels in _REGULARISED_FEED_FORWARDS.items() for kernel in kernels]
    return [Row(shown, rate=rate) for name in names for shown in (name, f"EReg({name})")]


def regularised_too(row: Row, rate: float) -> list[Row]:
    """A row with and without the regulariser, at one learning rate."""
    plain = str(parse(row.architecture).without_regulariser())
    return [Row(name, row.changes, rate=rate) for name in (plain, f"EReg({plain})")]


def stability_rows(row: Row, scale: ContestScale) -> list[Row]:
    """A row, and SM+R and the baseline with either optimiser, at several learning rates and depths: one seed, gradients not clipped."""
    short = (("training.steps", scale.stability_steps), ("training.evaluate_every", scale.stability_steps), ("training.clip_norm", None))
    kept = tuple(change for change in row.changes if change[0] != "shape.layers")
    muon = (("training.optimiser", "muon"),)
    models = [(row.architecture, kept), ("SM+R", ()), (BASELINE, ()), ("SM+R", muon), (BASELINE, muon)]
    return [
        Row(name, (*changes, ("shape.layers", layers), *short), f"{layers} layers, rate {rate:g}", rate=rate, seeds=1)
        for name, changes in models
        for layers in scale.stability_layers
        for rate in scale.stability_rates
    ]


def distillation_rows(points: Mapping[str, RowOutcome], teacher: str) -> list[Row]:
    """Models at their own learning rates, each trained on the text alone and then on a teacher's distribution as well.

    Args:
        points: what their runs gave, by the name shown.
        teacher: the folder of the teacher's checkpoint.
    """
    rows = []
    for name, point in points.items():
        row, rate = point.row, point.learning_rate
        rows.append(Row(row.architecture, row.changes, name, rate=rate))
        rows.append(Row(row.architecture, (*row.changes, ("training.teacher", teacher)), name + DISTILLED, rate=rate))
    return rows
