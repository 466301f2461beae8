"""The fitted seconds of the calls that answer from prepared material; bytes, messages and round trips need no constants here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from hushlm.cost.constants import Residual

__all__ = ["FILE", "CalibratedOnline", "OnlineConstants", "load_online_constants"]

FILE = "prepared-cheetah-spu-0.9.5.json"


@dataclass(frozen=True)
class OnlineConstants:
    """What one unit of each call takes; the model is linear in these numbers.

    Seconds, either CPU seconds of both parties, or those that pass with no network between them:
        program_seconds: handing words to a compiled program and taking results back.
        call_seconds: a primitive inside a program.
        message_seconds: one exchange of words.
        word_seconds, truncation_seconds, select_seconds, compare_seconds: an element of these.
        multiplication_seconds, full_multiplication_seconds: a multiplication of float64 pieces, by weights and of two shared matrices.
        weight_seconds: reading one weight. limb_seconds: cutting one word into a piece, and putting one together.
        refill_seconds: one refill of one worker's stock of oblivious transfers, in either ring.
        compile_seconds: compiling one program, in the first answer that needs it.
    """

    program_seconds: float = 0.0
    call_seconds: float = 0.0
    message_seconds: float = 0.0
    word_seconds: float = 0.0
    truncation_seconds: float = 0.0
    select_seconds: float = 0.0
    compare_seconds: float = 0.0
    multiplication_seconds: float = 0.0
    full_multiplication_seconds: float = 0.0
    weight_seconds: float = 0.0
    limb_seconds: float = 0.0
    refill_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class CalibratedOnline:
    """Fitted constants, and where they come from.

    Attributes:
        engine, machine, measured: name and version, processor and number of cores, date.
        values: with CPU seconds of both parties together.
        elapsed: with the seconds that pass when both parties run on that machine, with no network between them.
        residuals: how well each micro-run is predicted; seconds are CPU seconds of both parties.
    """

    engine: str
    machine: str
    measured: str
    values: OnlineConstants
    elapsed: OnlineConstants
    residuals: tuple[Residual, ...] = ()

    def to_json(self) -> str:
        """The document that `from_json` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> CalibratedOnline:
        """The constants of a document that `to_json` made."""
        document: dict[str, Any] = json.loads(text)
        return CalibratedOnline(
            document["engine"],
            document["machine"],
            document["measured"],
            OnlineConstants(**document["values"]),
            OnlineConstants(**document["elapsed"]),
            tuple(Residual(**residual) for residual in document["residuals"]),
        )


@lru_cache(maxsize=1)
def load_online_constants() -> CalibratedOnline:
    """The constants that come with the package."""
    return CalibratedOnline.from_json((files("hushlm.cost") / "constants" / FILE).read_text(encoding="utf-8"))
