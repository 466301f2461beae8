"""Models that the contest tunes and measures beside what its search finds (models.yaml), and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from hushlm.architectures import parse
from hushlm.recommended import Recommendation, training_of
from hushlm.shapes import GPT2_SMALL

__all__ = ["MODELS", "ContestModel", "Origin", "models_from"]


class Origin(Enum):
    """Where a model of the contest comes from."""

    BY_HAND = "by hand"
    FORMERLY_RECOMMENDED = "formerly recommended"
    SMALL_SCALE = "small scale"
    WITHOUT_COMPARISON = "without comparison"


@dataclass(frozen=True, kw_only=True)
class ContestModel(Recommendation):
    """A model of the contest. Its purpose is to be compared; its training is the recommended models'.

    Attributes:
        origin: where it comes from.
        distilled: whether it learns from the baseline's distribution as well, beside the models that answer the contest's questions.
    """

    origin: Origin
    distilled: bool


class _Entry(BaseModel):
    """One model as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Origin
    name: str
    architecture: str
    layers: int
    heads: int
    width: int
    ffn_multiple: int = GPT2_SMALL.ffn_multiple
    distilled: bool = False

    @field_validator("architecture")
    @classmethod
    def _is_an_architecture(cls, name: str) -> str:
        return str(parse(name))

    def model(self) -> ContestModel:
        shape = replace(GPT2_SMALL, layers=self.layers, heads=self.heads, width=self.width, ffn_multiple=self.ffn_multiple)
        training = training_of(self.architecture)
        return ContestModel(self.name, "", self.architecture, shape, training, origin=self.origin, distilled=self.distilled)


class _File(BaseModel):
    """models.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[_Entry, ...]


_FILE = _File.model_validate(yaml.safe_load((files(__package__) / "models.yaml").read_text(encoding="utf-8")))

MODELS: tuple[ContestModel, ...] = tuple(entry.model() for entry in _FILE.models)
"""Every model of the file, in its order."""


def models_from(*origins: Origin) -> tuple[ContestModel, ...]:
    """The models with these origins, one origin after the other."""
    return tuple(model for origin in origins for model in MODELS if model.origin is origin)
