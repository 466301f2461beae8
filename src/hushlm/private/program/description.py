"""What both parties must agree on before any share moves: the public description of a private program."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hushlm.architectures import Architecture, parse
from hushlm.config import ModelShape
from hushlm.files import verify_manifest
from hushlm.plan import HUSH, Rewrites, exponential_squarings, parse_reveal
from hushlm.plan.operations import MOST_REVEALED, RevealKind
from hushlm.private.engine import EngineSettings

__all__ = ["PROTOCOL_VERSION", "ProgramDescription", "RevealPolicy", "describe", "load_description", "load_server_weights"]

PROTOCOL_VERSION = 2
DESCRIPTION_FILE = "program.json"
WEIGHTS_FILE = "weights.safetensors"


class RevealPolicy(BaseModel):
    """What the client learns of each step's logits; the server never learns any of it.

    Attributes:
        kind: "token" (the arg max, computed on shares), "topk" (the `top` largest logits and their ids), "logits" (all).
        top: k of "topk".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: RevealKind = "token"
    top: int = Field(default=1, ge=1, le=MOST_REVEALED)

    @staticmethod
    def parse(text: str) -> RevealPolicy:
        """From "token", "topk:K" or "logits".

        Raises:
            ValueError: for anything else, in one sentence.
        """
        kind, top = parse_reveal(text)
        return RevealPolicy(kind=kind, top=top)

    def is_within(self, most: RevealPolicy) -> bool:
        """Whether it tells no more than `most`; the order is token, topk:K by K, logits."""
        return self._extent <= most._extent

    @property
    def _extent(self) -> float:
        return {"token": 0.0, "topk": float(self.top), "logits": float("inf")}[self.kind]

    def __str__(self) -> str:
        return f"topk:{self.top}" if self.kind == "topk" else self.kind


class ProgramDescription(BaseModel):
    """Everything public about an exported model; the same file lies in `server/` and `client/`.

    Attributes:
        protocol_version: of this file and of the session.
        architecture: its name.
        shape: its sizes.
        rewrites: how the program is written.
        engine: the engine's settings.
        checkpoint: manifest hash of the checkpoint it was made from (sha256 hex).
        tokenizer: sha256 hex of tokenizer.json.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    protocol_version: int
    architecture: str
    shape: ModelShape
    rewrites: Rewrites
    engine: EngineSettings
    checkpoint: str
    tokenizer: str

    @property
    def parsed_architecture(self) -> Architecture:
        return parse(self.architecture)

    @property
    def fingerprint(self) -> str:
        """sha256 hex of the canonical description: equal at both parties, or they would run different programs."""
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
    """The description of an architecture's program, with the engine set as its plan needs it.

    Args:
        simulate: in the clear, in one process.
        checkpoint, tokenizer: sha256 hex; empty for a program that belongs to no checkpoint.
    """
    return ProgramDescription(
        protocol_version=PROTOCOL_VERSION,
        architecture=str(architecture),
        shape=shape,
        rewrites=rewrites,
        engine=EngineSettings(exponential_squarings(architecture), fraction_bits, pack_products, simulate=simulate),
        checkpoint=checkpoint,
        tokenizer=tokenizer,
    )


def load_description(folder: Path) -> ProgramDescription:
    """Read and verify an exported `server/` or `client/` folder.

    Raises:
        ValueError: if the folder is not an export, is torn or altered, or was written by another version.
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
    if description.protocol_version != PROTOCOL_VERSION:
        raise ValueError(
            f"{path} was written for protocol version {description.protocol_version}, this is version {PROTOCOL_VERSION}: export it again."
        )
    return description


def load_server_weights(folder: Path) -> dict[str, np.ndarray]:
    """The server's private tensors, float32, by the names `program` asks for.

    Raises:
        ValueError: if the folder holds no weights (a client's folder).
    """
    from safetensors.numpy import load_file

    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no weights: a server needs the export's server/ folder.")
    return load_file(path)
