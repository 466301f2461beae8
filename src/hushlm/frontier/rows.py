"""What is run after the search, as rows of a `reproduce` study: every row is tuned and measured by the same rules as the paper's.

A row is the baseline's run with changes; "training" below is what a search may choose of optimisation and initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hushlm.architectures import FeedForward, Norm, Temperature, parse
from hushlm.config import RunConfig
from hushlm.frontier.presets import BASELINE, Scale
from hushlm.frontier.search import Trial
from hushlm.recommended import RECOMMENDED, TRAINING, Recommendation
from hushlm.reproduce.experiments import Experiment, Row
from hushlm.reproduce.presets import Preset
from hushlm.reproduce.study import RowOutcome
from hushlm.shapes import GPT2_SMALL

__all__ = [
    "GROWN",
    "HAND_PICKED",
    "IN_BF16",
    "TAUGHT_AS_WELL",
    "ablation_rows",
    "added_rows",
    "baseline_rows",
    "changes_of",
    "distillation_rows",
    "experiment",
    "finalist_rows",
    "grown_rows",
    "model_of",
    "preset_of",
    "recommended_rows",
    "regulariser_rows",
    "stability_rows",
    "without_twins",
]

CAPS_BYTES = (800_000_000, 1_000_000_000, 1_200_000_000, 1_600_000_000, 6_430_000_000)
"""Bytes at GPT-2 small's scale below which a finalist is sought: moonshot and target at 1.10 times the baseline's perplexity, moonshot and
target at 1.00 times, and the paper's best system."""

_TRAINING = ("optimiser", "weight_decay", "init_std", "residual_init")
_CHOSEN_ELSEWHERE = {"training.steps", "training.evaluate_every", "training.learning_rate", "training.seed"}
_REGULARISED_FEED_FORWARDS = {"R": ("SM", "SM1", "SM2", "SM3"), "ScFuFFN": ("SM2",)}


HAND_PICKED = tuple(
    Recommendation(
        f"by hand: {layers} layers of {width}, FFN {multiple} times as wide",
        "beyond the best of the search",
        "SM2(th)+LN+Q",
        replace(GPT2_SMALL, layers=layers, heads=3, width=width, ffn_multiple=multiple),
        TRAINING,
    )
    for layers, width, multiple in ((6, 768, 4), (4, 1152, 4), (4, 960, 4), (4, 1152, 6), (12, 960, 4))
)
"""The search's best became shallower and wider up to the edge of its space: models beyond it, and its best with the baseline's depth. Tuned
and measured like finalists."""

GROWN = tuple(
    Recommendation(
        f"at small: {architecture}, {layers} layers of {width}, {heads} heads",
        "what the contest at the small scale brought up",
        architecture,
        replace(GPT2_SMALL, layers=layers, heads=heads, width=width),
        TRAINING,
    )
    for architecture, layers, heads, width in (
        ("SM(th)+LN+Q", 4, 6, 960),  # Hush-S
        ("SM(th)+LN+Q", 4, 6, 1152),
        ("SM2(th)+LN+R", 8, 12, 960),
        ("SM(th)+LN+R", 4, 6, 960),
        ("SM2(th)+LN+R", 8, 3, 960),
        ("SM2(th)+LN+R", 6, 6, 1152),
        ("SM2(th)+LN+R", 4, 6, 1344),
        ("SM2(th)+LN+R", 4, 6, 1536),
    )
)
"""The best of the small scale's search, and its lessons (ReLU instead of the square, width instead of depth) where the byte limits are."""

FORMER_M = Recommendation(
    "the former Hush-M",
    "the best of micro's search below 1.6 GB",
    "SM2(th)+LN+Q",
    replace(GPT2_SMALL, layers=8, heads=3, width=960),
    TRAINING,
)

IN_BF16 = {"Hush-M": 8e-3}
"""Models recommended whose runs at the small scale were made on a CPU, in bf16 (0.7 of float32's time), at one learning rate. All
others have TF32's products there, which round less, and the better of two rates."""

TAUGHT_AS_WELL = HAND_PICKED[1].name
"""1.5% above the baseline at 0.96 GB."""


def preset_of(scale: Scale) -> Preset:
    """The scale as a preset of `reproduce`."""
    return Preset(scale.name, scale.base, scale.learning_rates, scale.seeds, scale.base, scale.evaluation_batches, scale.checkpoint_every)


def experiment(name: str, title: str, rows: Iterable[Row]) -> Experiment:
    """Rows, each once."""
    return Experiment(name, title, tuple(dict.fromkeys(rows)))


def changes_of(config: RunConfig, base: RunConfig) -> tuple[tuple[str, Any], ...]:
    """Settings of shape, training and regulariser in which a run differs from the base, learning rate and length left out."""
    found = []
    for section in ("shape", "training", "entropy"):
        before, after = base.to_dict()[section], config.to_dict()[section]
        found += [(f"{section}.{name}", value) for name, value in after.items() if value != before[name]]
    return tuple((name, value) for name, value in found if name not in _CHOSEN_ELSEWHERE)


def finalist_rows(trials: Sequence[Trial], scale: Scale) -> list[Row]:
    """The best trial below each of `CAPS_BYTES`, by validation loss."""
    rows = []
    for cap in CAPS_BYTES:
        allowed = [trial for trial in trials if trial.bytes <= cap and trial.config.architecture != BASELINE]
        if allowed:
            best = min(allowed, key=lambda trial: trial.loss_nats)
            rows.append(Row(best.config.architecture, changes_of(best.config, scale.base), f"trial {best.number}", retuned=True))
    return list(dict.fromkeys(rows))


def baseline_rows(finalists: Sequence[Row], trials: Sequence[Trial]) -> list[Row]:
    """The baseline as the paper trains it, with the optimiser of the search's best finalist, and with all of that one's training.

    It gets what they got: a gain of training is no gain of architecture.
    """
    loss = {f"trial {trial.number}": trial.loss_nats for trial in trials}
    best = min(finalists, key=lambda row: loss[row.label])
    training = tuple((name, value) for name, value in best.changes if name.removeprefix("training.") in _TRAINING)
    optimiser = tuple(change for change in training if change[0] == "training.optimiser")
    rows = [Row(BASELINE)]
    if optimiser:
        rows.append(Row(BASELINE, optimiser, f"optimiser of {best.label}", retuned=True))
    if training and training != optimiser:
        rows.append(Row(BASELINE, training, f"training of {best.label}", retuned=True))
    return rows


def added_rows(scale: Scale) -> list[Row]:
    """What is tuned and measured beside the finalists: models picked by hand, and at another scale than micro the ones recommended."""
    if scale.name == "micro":
        return recommended_rows(scale, HAND_PICKED)
    return [_in_bf16(row) if row.label in IN_BF16 else row for row in recommended_rows(scale, (*RECOMMENDED.values(), FORMER_M, *GROWN))]


def _in_bf16(row: Row) -> Row:
    return replace(row, changes=(*row.changes, ("training.precision", "bf16")), rate=IN_BF16[row.label])


def grown_rows(scale: Scale) -> list[Row]:
    """What the small scale brought up, at another."""
    return [] if scale.name == "small" else recommended_rows(scale, GROWN)


def recommended_rows(scale: Scale, points: Iterable[Recommendation]) -> list[Row]:
    """Models given at GPT-2 small's scale, at another."""
    return [Row(point.architecture, point.changes(scale.base.shape), point.name, retuned=True) for point in points]


def model_of(row: Row) -> tuple[str, frozenset[tuple[str, Any]]]:
    """What makes two rows the same model and training: all but label, rate, seeds and arithmetic."""
    return row.architecture, frozenset(change for change in row.changes if change[0] != "training.precision")


def without_twins(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same model and training as one, with both labels."""
    found: dict[tuple[str, frozenset[tuple[str, Any]]], Row] = {}
    for row in rows:
        key = model_of(row)
        found[key] = replace(found[key], label=f"{found[key].label}, {row.label}") if key in found else row
    return list(found.values())


def ablation_rows(row: Row, rate: float, scale: Scale) -> list[Row]:
    """A row with one ingredient at a time put back to the baseline's, at the row's own learning rate."""
    architecture = parse(row.architecture)
    baseline = parse(BASELINE)
    variants: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {}
    if architecture.kernel_order is not None:
        variants["exact softmax"] = (str(replace(architecture, kernel_order=None)), row.changes)
    if architecture.feed_forward is not baseline.feed_forward:
        variants["GELU"] = (str(replace(architecture, feed_forward=FeedForward.GELU)), row.changes)
    if architecture.norm is Norm.LAYER:
        variants["no LayerNorm"] = (str(replace(architecture, norm=Norm.NONE)), row.changes)
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


def regulariser_rows(scale: Scale) -> list[Row]:
    """Every kernel with and without the regulariser, at the base's shape, learning rate and regulariser."""
    rate = scale.base.training.learning_rate
    names = [f"{kernel}+{ffn}" for ffn, kernels in _REGULARISED_FEED_FORWARDS.items() for kernel in kernels]
    return [Row(shown, rate=rate) for name in names for shown in (name, f"EReg({name})")]


def stability_rows(row: Row, scale: Scale) -> list[Row]:
    """Learning rate against depth, gradients not clipped, one seed: a row, and SM+R and the baseline with either optimiser."""
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
    """Points at their own learning rates, each from the text alone and then from a teacher's distribution as well.

    Args:
        points: by the name shown.
        teacher: a checkpoint's folder.
    """
    rows = []
    for name, point in points.items():
        row, rate = point.row, point.learning_rate
        rows.append(Row(row.architecture, row.changes, name, rate=rate))
        rows.append(Row(row.architecture, (*row.changes, ("training.teacher", teacher)), f"{name}, distilled", rate=rate))
    return rows
