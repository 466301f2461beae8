"""The search space: what a trial may choose, and what it starts from.

Every value lands in a `RunConfig`; what a choice makes meaningless (the regulariser's settings without a regulariser) is not asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from hushlm.architectures import Architecture, FeedForward, Norm, Temperature
from hushlm.config import RunConfig
from hushlm.frontier.presets import Scale

if TYPE_CHECKING:
    import optuna

__all__ = ["GROWN_STARTS", "STARTS", "start", "starts", "suggest"]

KERNELS = ("SM", "SM1", "SM2", "SM3")
FEED_FORWARDS = tuple(kind.name for kind in FeedForward if kind not in (FeedForward.IDENTITY, FeedForward.SCALED))
NORMS = {"none": (Norm.NONE, ""), "LN": (Norm.LAYER, ""), "SNorm(FFN)": (Norm.SPECTRAL, "FFN")}
OPTIMISERS: dict[str, Literal["adamw", "muon"]] = {"adamw": "adamw", "muon": "muon"}
TEMPERATURES = tuple(kind.name for kind in Temperature)

_SQUARE = {
    "feed_forward": "QUADRATIC",
    "norm": "LN",
    "temperature": "PER_HEAD",
    "heads": 0.25,
    "layers": 2 / 3,
    "optimiser": "muon",
    "learning_rate": 0.02,
    "weight_decay": 0.03,
    "init_std": 0.014,
    "residual_init": 0.5,
    "initial_temperature": 0.8,
}

STARTS: tuple[dict[str, Any], ...] = (
    {"kernel": "SM", "feed_forward": "GELU", "norm": "LN"},
    {"kernel": "SM2", "feed_forward": "RELU"},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.5},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.25},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.5, "ffn_multiple": 2},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.25, "ffn_multiple": 1},
    {"kernel": "SM2", "feed_forward": "RELU", "regularised": True},
    {"kernel": "SM2", "feed_forward": "SQUARED_RELU", "ffn_multiple": 2},
    {"kernel": "SM2", "feed_forward": "QUADRATIC"},
    {"kernel": "SM2", "feed_forward": "BILINEAR", "ffn_multiple": 2},
    {"kernel": "SM2", "feed_forward": "SCALED_FUSED"},
    {"kernel": "SM2", "feed_forward": "RELU", "optimiser": "muon"},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.25, "ffn_multiple": 2, "optimiser": "muon"},
    {"kernel": "SM1", "feed_forward": "RELU", "heads": 0.25, "ffn_multiple": 1, "layers": 2 / 3, "optimiser": "muon"},
    # Between the best of the first 56 trials at micro scale, where no trial had been.
    _SQUARE | {"kernel": "SM2", "width": 1.25, "ffn_multiple": 4},
    _SQUARE | {"kernel": "SM2", "width": 1, "ffn_multiple": 3},
    _SQUARE | {"kernel": "SM1", "width": 1, "ffn_multiple": 1},
)
"""Where the search begins: what is known. Heads, layers and width as shares of the base's; what is not named is the base's."""


_GROWN = _SQUARE | {"kernel": "SM2", "width": 1.25, "heads": 1, "learning_rate": 0.012}
_PLAIN = {"optimiser": "muon", "learning_rate": 0.012, "norm": "LN"}

GROWN_STARTS: tuple[dict[str, Any], ...] = (
    _PLAIN | {"kernel": "SM", "feed_forward": "GELU"},
    # Hush-S, Hush-M, and what Hush-M lacks beside the baseline: heads, layers, exact softmax.
    _GROWN | {"layers": 1 / 3, "heads": 0.25},
    _GROWN | {"heads": 0.25},
    _GROWN,
    _GROWN | {"layers": 1, "width": 1},
    _GROWN | {"kernel": "SM", "heads": 0.25},
    _GROWN | {"kernel": "SM", "heads": 0.5},
    _GROWN | {"kernel": "SM"},
    _GROWN | {"kernel": "SM3"},
    _GROWN | {"kernel": "SM1"},
    # One thing at a time, from the baseline.
    _PLAIN | {"kernel": "SM2", "feed_forward": "GELU"},
    _PLAIN | {"kernel": "SM3", "feed_forward": "GELU"},
    _PLAIN | {"kernel": "SM", "feed_forward": "QUADRATIC"},
    _PLAIN | {"kernel": "SM", "feed_forward": "RELU"},
    # And from the whole.
    _GROWN | {"regularised": True},
    _GROWN | {"initial_temperature": 2.0},
    _GROWN | {"temperature": "NONE"},
    _GROWN | {"feed_forward": "RELU"},
    _GROWN | {"feed_forward": "BILINEAR", "ffn_multiple": 3},
    _GROWN | {"feed_forward": "SQUARED_RELU", "ffn_multiple": 3},
    _GROWN | {"init_std": 0.02, "residual_init": 1.0, "weight_decay": 0.1},
    # Shallow and wide.
    _GROWN | {"layers": 1 / 2, "width": 1.5},
    _GROWN | {"layers": 1 / 3, "width": 1.5},
    _GROWN | {"kernel": "SM", "layers": 1 / 2, "heads": 0.5, "width": 1.5},
    _GROWN | {"kernel": "SM", "layers": 1 / 3, "heads": 0.5, "width": 1.5},
    # Below the byte limits of the contest.
    _GROWN | {"layers": 1 / 2, "heads": 0.5, "width": 1.5},
    _GROWN | {"layers": 1 / 3, "heads": 0.5, "width": 1.5},
    _GROWN | {"kernel": "SM", "layers": 1 / 2, "heads": 0.5},
    _GROWN | {"kernel": "SM3", "layers": 1 / 2, "heads": 0.5, "width": 1.5},
    _GROWN | {"kernel": "SM", "layers": 1 / 3, "heads": 0.5},
)
"""Where it begins at the small scale, where the best of micro were no longer good: which of their parts is it?"""


def starts(scale: Scale) -> tuple[dict[str, Any], ...]:
    """What a scale's search begins with."""
    return GROWN_STARTS if scale.name == "small" else STARTS


def start(values: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """The parameters of a start, whole, for the trial that is to be made first."""
    shape, training = scale.base.shape, scale.base.training
    chosen: dict[str, Any] = {
        "norm": "none",
        "temperature": "NONE",
        "ffn_multiple": shape.ffn_multiple,
        "regularised": False,
        "optimiser": training.optimiser,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "init_std": training.init_std,
        "residual_init": training.residual_init,
        **values,
    }
    wanted = {name: getattr(shape, name) * values.get(name, 1) for name in ("heads", "layers", "width")}
    wanted["ffn_multiple"] = chosen["ffn_multiple"]
    for name, choices in (("heads", scale.heads), ("layers", scale.layers), ("width", scale.widths), ("ffn_multiple", scale.ffn_multiples)):
        chosen[name] = min(choices, key=lambda choice, near=wanted[name]: abs(choice - near))  # type: ignore[misc]
    low, high = _rates(scale)
    chosen["learning_rate"] = min(max(chosen["learning_rate"], low), high)
    if chosen["regularised"]:
        entropy = scale.base.entropy
        chosen |= {
            "regulariser_weight": entropy.weight,
            "regulariser_end": entropy.weight_end_fraction,
            "tolerance": entropy.tolerance,
            "initial_threshold": entropy.initial_threshold,
        }
    return chosen


def suggest(trial: optuna.Trial, scale: Scale) -> RunConfig:
    """The run of a trial, at the search's number of updates."""
    kernel = trial.suggest_categorical("kernel", KERNELS)
    feed_forward = FeedForward[trial.suggest_categorical("feed_forward", FEED_FORWARDS)]
    # ScFuFFN stands in for LayerNorm.
    norm, norm_layers = NORMS["none" if feed_forward.is_scaled else trial.suggest_categorical("norm", tuple(NORMS))]
    temperature = Temperature[trial.suggest_categorical("temperature", TEMPERATURES)]
    regularised = trial.suggest_categorical("regularised", (False, True))
    architecture = Architecture(
        kernel_order=int(kernel[2:]) if kernel != "SM" else None,
        temperature=temperature,
        norm=norm,
        norm_layers=norm_layers,
        feed_forward=feed_forward,
        entropy_regularised=regularised,
    )
    base = scale.base
    shape = replace(
        base.shape,
        layers=trial.suggest_categorical("layers", scale.layers),
        heads=trial.suggest_categorical("heads", scale.heads),
        width=trial.suggest_categorical("width", scale.widths),
        ffn_multiple=base.shape.ffn_multiple
        if feed_forward is FeedForward.SCALED_FUSED
        else trial.suggest_categorical("ffn_multiple", scale.ffn_multiples),
    )
    training = replace(
        base.training,
        steps=scale.search_steps,
        evaluate_every=scale.search_steps,
        optimiser=OPTIMISERS[trial.suggest_categorical("optimiser", tuple(OPTIMISERS))],
        learning_rate=trial.suggest_float("learning_rate", *_rates(scale), log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.03, 0.1, 0.3)),
        init_std=trial.suggest_categorical("init_std", (0.014, 0.02, 0.028)),
        # A normalised matrix cannot start at zero.
        residual_init=base.training.residual_init if norm is Norm.SPECTRAL else trial.suggest_categorical("residual_init", (0.0, 0.5, 1.0)),
    )
    entropy = base.entropy
    if regularised:
        entropy = replace(
            entropy,
            weight=trial.suggest_float("regulariser_weight", 0.01, 0.5, log=True),
            weight_end_fraction=trial.suggest_float("regulariser_end", 0.3, 1.0),
            tolerance=trial.suggest_float("tolerance", 0.05, 0.3),
            initial_threshold=trial.suggest_float("initial_threshold", 0.3, 0.7),
        )
    if temperature is not Temperature.NONE:
        entropy = replace(entropy, initial_temperature=trial.suggest_float("initial_temperature", 0.25, 2.0, log=True))
    return replace(base, architecture=str(architecture), shape=shape, training=training, entropy=entropy)


def _rates(scale: Scale) -> tuple[float, float]:
    """Lowest and highest learning rate of a trial."""
    return min(scale.learning_rates) / 2, 2 * max(scale.learning_rates)
