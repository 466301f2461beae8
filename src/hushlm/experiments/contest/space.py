"""The search space: what a trial may choose, and what a search starts from.

Every value lands in a `RunConfig`. What a choice makes meaningless (the regulariser's settings without a regulariser) is not asked.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from hushlm.architectures import Architecture, FeedForward, Norm, Temperature
from hushlm.config import RunConfig
from hushlm.experiments.scales import ContestScale
from hushlm.recommended import SCORE_PENALTY

if TYPE_CHECKING:
    import optuna

__all__ = ["start", "starts", "suggest"]

KERNELS = ("SM", "SM1", "SM2", "SM3")
ONLINE_KERNELS = ("SM", "SM2", "PS2", "PS3")
"""Of the search in seconds. Power kernels have a penalty on scores and, behind a LayerNorm, normalised queries and keys."""
_NOT_SEARCHED = (FeedForward.IDENTITY, FeedForward.SCALED, FeedForward.SWIGLU, FeedForward.SWIGLU_QUADRATIC)
"""A search that goes on must have the choices with which it began: SwiGLU came later, for pretrained models."""
FEED_FORWARDS = tuple(kind.name for kind in FeedForward if kind not in _NOT_SEARCHED)
NORMS = {"none": (Norm.NONE, ""), "LN": (Norm.LAYER, ""), "SNorm(FFN)": (Norm.SPECTRAL, "FFN")}
OPTIMISERS: dict[str, Literal["adamw", "muon"]] = {"adamw": "adamw", "muon": "muon"}
TEMPERATURES = tuple(kind.name for kind in Temperature)

Share = Annotated[float, BeforeValidator(lambda value: float(Fraction(str(value))))]
"""A share of the base's size, as a number or a fraction like "2/3"."""


class _Start(BaseModel):
    """A start as it stands in starts.yaml; what is not named is as in the scale's base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: Literal["SM", "SM1", "SM2", "SM3", "PS2", "PS3"]
    feed_forward: str = Field(pattern=f"^({'|'.join(FEED_FORWARDS)})$")
    norm: Literal["none", "LN", "SNorm(FFN)"] | None = None
    temperature: str | None = Field(default=None, pattern=f"^({'|'.join(TEMPERATURES)})$")
    layers: Share | None = None
    heads: Share | None = None
    width: Share | None = None
    ffn_multiple: int | None = None
    regularised: bool | None = None
    optimiser: Literal["adamw", "muon"] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    init_std: float | None = None
    residual_init: float | None = None
    initial_temperature: float | None = None


_STARTS = TypeAdapter(dict[str, list[_Start]])


@cache
def starts(scale_name: str) -> tuple[dict[str, Any], ...]:
    """What the search of a scale begins with: the values that are named, heads, layers and width as shares of the base's."""
    found = yaml.safe_load((files(__package__) / "starts.yaml").read_text(encoding="utf-8"))
    del found["parts"]  # anchors of what several starts share
    return tuple(each.model_dump(exclude_unset=True) for each in _STARTS.validate_python(found)[scale_name])


def start(values: dict[str, Any], scale: ContestScale) -> dict[str, Any]:
    """All parameters of a trial that begins with these values, the others as in the scale's base."""
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


def suggest(trial: optuna.Trial, scale: ContestScale) -> RunConfig:
    """The run of a trial, with as many updates as the search gives each."""
    kernel = trial.suggest_categorical("kernel", KERNELS if scale.objective == "bytes" else ONLINE_KERNELS)
    power = kernel.startswith("PS")
    feed_forward = FeedForward[trial.suggest_categorical("feed_forward", FEED_FORWARDS)]
    # ScFuFFN stands in for LayerNorm.
    norm, norm_layers = NORMS["none" if feed_forward.is_scaled else trial.suggest_categorical("norm", tuple(NORMS))]
    temperature = Temperature[trial.suggest_categorical("temperature", TEMPERATURES)]
    regularised = trial.suggest_categorical("regularised", (False, True))
    architecture = Architecture(
        kernel_order=int(kernel[2:]) if kernel != "SM" else None,
        power=power,
        query_key_norm=power and norm is Norm.LAYER,  # it takes rows of known size
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
        score_penalty=SCORE_PENALTY if power else 0.0,
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


def _rates(scale: ContestScale) -> tuple[float, float]:
    """The lowest and the highest learning rate of a trial."""
    return min(scale.learning_rates) / 2, 2 * max(scale.learning_rates)
