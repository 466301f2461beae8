"""The public description of a private program, on which both parties must agree before any share is sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from hushlm.architectures import Architecture, parse
from hushlm.config import ModelShape
from hushlm.files import verify_manifest
from hushlm.plan import HUSH, Reveal, Rewrites, exponential_squarings, parse_reveal
from hushlm.plan.operations import MOST_REVEALED
from hushlm.private.engine import EngineSettings

__all__ = [
    "FORMAT_VERSION",
    "PROTOCOL_VERSION",
    "ProgramDescription",
    "RevealPolicy",
    "describe",
    "load_description",
    "load_server_weights",
]

FORMAT_VERSION = 2
"""Of program.json; a part of every fingerprint."""

PROTOCOL_VERSION = 9
"""Of the messages of a session; exports of an older one stay good."""

DESCRIPTION_FILE = "program.json"
WEIGHTS_FILE = "weights.safetensors"

MOST_CANDIDATES = 256
"""So that they fit a request."""


class RevealPolicy(BaseModel):
    """What the client learns of the logits of each new token. The server never learns anything of them.

    Attributes:
        kind: "candidates" for the likeliest of some tokens, which both parties know; "token" for the likeliest of all, an arg max that is
            computed on shares as well; "topk" for the `top` largest logits and their ids; "logits" for all.
        top: how many logits "topk" reveals.
        candidates: token ids of "candidates", ascending, so that their order says nothing; otherwise none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["candidates", "token", "topk", "logits"] = "token"
    top: int = Field(default=1, ge=1, le=MOST_REVEALED)
    candidates: tuple[int, ...] = Field(default=(), max_length=MOST_CANDIDATES)

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        ids = self.candidates
        if self.kind != "candidates" and ids:
            raise ValueError(f"candidates are not for {self.kind}")
        if self.kind == "candidates" and (len(ids) < 2 or ids[0] < 0 or list(ids) != sorted({*ids})):
            raise ValueError("candidates must be at least 2 token ids, ascending and each once")
        return self

    @staticmethod
    def parse(text: str) -> RevealPolicy:
        """The policy of "token", "topk:K" or "logits"; the inverse of `str`. Candidates are words of a question, not of an option.

        Raises:
            ValueError: in one sentence, for anything else.
        """
        kind, top = parse_reveal(text)
        return RevealPolicy(kind=kind, top=top)

    def is_within(self, most: RevealPolicy) -> bool:
        """Whether this policy reveals no more than `most`.

        One of some candidates is least, then a token, then the largest K logits by their number, then all.
        """
        return self._extent <= most._extent

    @property
    def _extent(self) -> float:
        return {"candidates": -1.0, "token": 0.0, "topk": float(self.top), "logits": float("inf")}[self.kind]

    def operation(self, vocabulary: int) -> Reveal:
        """The operation of a plan that reveals this. One of the candidates is an arg max over their logits alone."""
        return Reveal(len(self.candidates), "token") if self.kind == "candidates" else Reveal(vocabulary, self.kind, self.top)

    def __str__(self) -> str:
        if self.kind == "candidates":
            return f"candidates:{','.join(map(str, self.candidates))}"
        return f"topk:{self.top}" if self.kind == "topk" else self.kind


class ProgramDescription(BaseModel):
    """Everything that is public about an exported model. The same file lies in `server/` and in `client/`.

    Attributes:
        protocol_version: the version of this file's format, `FORMAT_VERSION`; the name is older than the messages' own version.
        architecture: the architecture's name.
        shape: the model's sizes.
        rewrites: how the program is written.
        engine: the engine's settings.
        checkpoint: the SHA-256 hash of the manifest of the checkpoint that the program was made from, in hexadecimal.
        tokenizer: the SHA-256 hash of tokenizer.json, in hexadecimal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    protocol_version: int
    architecture: str
    shape: ModelShape
    rewrites: Rewrites
    engine: EngineSettings
    checkpoint: str
    tokenizer: str

    @field_serializer("engine")
    def _engine_of_every_session(self, engine: EngineSettings) -> dict[str, Any]:
        """How transfers are made, each session decides: it is no part of a program, of its file or of its fingerprint."""
        return {name: value for name, value in asdict(engine).items() if name != "transfers"}

    @property
    def parsed_architecture(self) -> Architecture:
        """The architecture that `architecture` names."""
        return parse(self.architecture)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 hash of the description in a canonical form, in hexadecimal.

        Both parties compare it, because they would run different programs if it differed.
        """
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def describe(
    architecture: Architecture,
    shape: ModelShape,
    rewrites: Rewrites = HUSH,
    *,
    fraction_bits: int = 18,
    pack_products: bool = True,
    simulate: bool = False,
    checkpoint: str = "",
    tokenizer: str = "",
) -> ProgramDescription:
    """The description of an architecture's program, with the settings of the engine that its plan needs.

    Args:
        architecture, shape: what the model is and how large it is.
        rewrites: how the program is written.
        fraction_bits: how many fraction bits the fixed-point numbers have.
        pack_products: whether the answers of matrix products are packed into fewer ciphertexts.
        simulate: whether the program runs in the clear, in one process.
        checkpoint, tokenizer: the hashes of `ProgramDescription`; empty for a program that belongs to no checkpoint.
    """
    return ProgramDescription(
        protocol_version=FORMAT_VERSION,
        architecture=str(architecture),
        shape=shape,
        rewrites=rewrites,
        engine=EngineSettings(exponential_squarings(architecture), fraction_bits, pack_products, simulate=simulate),
        checkpoint=checkpoint,
        tokenizer=tokenizer,
    )


def load_description(folder: Path) -> ProgramDescription:
    """Verify an exported `server/` or `client/` folder and read its description.

    Raises:
        ValueError: if the folder is not an export, is incomplete or altered, or was written by another version.
    """
    verify_manifest(folder)
    path = Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an exported model: it has no {DESCRIPTION_FILE}; make one with `hushlm export`.")
    try:
        description = ProgramDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is not a program description this version can read ({where}: {first['msg']}).") from error
    if description.protocol_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} was written for protocol version {description.protocol_version}, this is version {FORMAT_VERSION}: export it again."
        )
    return description


def load_server_weights(folder: Path) -> dict[str, np.ndarray]:
    """The server's private tensors in float32, by their names in the program (`hushlm.plan.tensor_name`).

    Raises:
        ValueError: if the folder holds no weights, as a client's folder does not.
    """
    from safetensors.numpy import load_file

    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no weights: a server needs the export's server/ folder.")
    return load_file(path)
