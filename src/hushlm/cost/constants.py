"""The fitted numbers of the protocol model, versioned: what one unit of each primitive moves and takes.

The model (`primitives`, `protocol`) is linear in these, so that `calibration` fits them by least squares from counted runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["DEFAULT_CONSTANTS", "CalibratedConstants", "Constants", "Residual", "load_constants"]

DEFAULT_CONSTANTS = "cheetah-spu-0.9.5.json"
_SECONDS = "_seconds"


@dataclass(frozen=True)
class Constants:
    """Bytes, round trips and CPU seconds of one unit. "Forward" is client to server, "back" server to client.

    Bytes:
        compare_forward, compare_back: the digit transfers of a comparison, an element.
        opened_word: 64 opened bits, each way.
        shared_value: a ring element sent as the correlation of a transfer, forward; also back for a selection.
        choice_byte: eight choices of a transfer, from its receiver.
        truncation_byte: a byte of the shift of a truncated element.
        reciprocal_factor, rsqrt_factor: powers of two from bits to numbers inside 1/x and 1/sqrt(x), an element forward.
        slot_request, slot_response, slot_sum_response: a ciphertext of elementwise products; the last of a sum of two.
        product_request, product_response: a ciphertext of matrix products.
        bare_response, kept_coefficient: a response that is not packed, and each coefficient left in it.
        answer_base, answer_element: a share sent to open a result.
        refill: one refill of a worker's stock of oblivious transfers.
        worker_set_up: starting a worker, each way.
        slot_keys, product_keys: keys for elementwise and for matrix products, once a session, each way.
    Round trips of one call:
        *_rounds; of a product with the server's matrix none beyond those of its truncation; of two shared ones more; and for each
        further `SENT_AT_ONCE` ciphertexts, which the engine has acknowledged before it goes on.
    Seconds:
        *_seconds; of a message, of a line of a compiled program, of a ciphertext, of a key switch, of a multiplication of polynomials,
        of an element. Either CPU seconds of both parties, or those that pass with no network between them; see `CalibratedConstants`.
    """

    compare_forward: float = 0.0
    compare_back: float = 0.0
    opened_word: float = 0.0
    shared_value: float = 0.0
    choice_byte: float = 0.0
    truncation_byte: float = 0.0
    reciprocal_factor: float = 0.0
    rsqrt_factor: float = 0.0
    slot_request: float = 0.0
    slot_response: float = 0.0
    slot_sum_response: float = 0.0
    product_request: float = 0.0
    product_response: float = 0.0
    bare_response: float = 0.0
    kept_coefficient: float = 0.0
    answer_base: float = 0.0
    answer_element: float = 0.0
    refill: float = 0.0
    worker_set_up: float = 0.0
    slot_keys: float = 0.0
    product_keys: float = 0.0

    compare_rounds: float = 0.0
    select_rounds: float = 0.0
    truncation_rounds: float = 0.0
    bits_rounds: float = 0.0
    open_rounds: float = 0.0
    slot_rounds: float = 0.0
    shared_product_rounds: float = 0.0
    further_ciphertexts_rounds: float = 0.0

    call_seconds: float = 0.0
    message_seconds: float = 0.0
    line_seconds: float = 0.0
    compare_seconds: float = 0.0
    select_seconds: float = 0.0
    truncation_seconds: float = 0.0
    bits_seconds: float = 0.0
    open_seconds: float = 0.0
    slot_seconds: float = 0.0
    product_request_seconds: float = 0.0
    product_response_seconds: float = 0.0
    multiplication_seconds: float = 0.0
    key_switch_seconds: float = 0.0


@dataclass(frozen=True)
class Residual:
    """One micro-run: counted against the fitted model, bytes of both directions and seconds that passed (0 where not timed)."""

    case: str
    counted_bytes: float
    predicted_bytes: float
    counted_seconds: float = 0.0
    predicted_seconds: float = 0.0

    @property
    def relative(self) -> float:
        return self.predicted_bytes / self.counted_bytes - 1 if self.counted_bytes else 0.0


@dataclass(frozen=True)
class CalibratedConstants:
    """Constants and where they come from.

    Attributes:
        engine: name, version and protocol, e.g. "Cheetah (SPU 0.9.5)".
        version: counts up with each refit.
        fraction_bits: they hold for.
        cores: of the machine on which the seconds were taken; bytes do not depend on it.
        values: the constants; their seconds are CPU seconds of both parties together.
        elapsed: the same, but their seconds are those that pass: both parties on one idle machine of `cores`, no network between them.
        residuals: of the micro-runs they were fitted to.
    """

    engine: str
    version: int
    fraction_bits: int
    cores: int
    values: Constants
    elapsed: Constants
    residuals: tuple[Residual, ...]

    def to_json(self) -> str:
        document = {
            "engine": self.engine,
            "version": self.version,
            "fraction_bits": self.fraction_bits,
            "cores": self.cores,
            "values": asdict(self.values),
            "elapsed": {name: value for name, value in asdict(self.elapsed).items() if name.endswith(_SECONDS)},
            "residuals": [asdict(residual) for residual in self.residuals],
        }
        return json.dumps(document, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> CalibratedConstants:
        """Raises: ValueError in one sentence where the document does not hold exactly the constants this version knows."""
        try:
            document: dict[str, Any] = json.loads(text)
            names = {field.name for field in fields(Constants)}
            timed = {name for name in names if name.endswith(_SECONDS)}
            if unknown := (names ^ set(document["values"])) | (timed ^ set(document["elapsed"])):
                raise KeyError(", ".join(sorted(unknown)))
            values = Constants(**{name: float(value) for name, value in document["values"].items()})
            return CalibratedConstants(
                engine=document["engine"],
                version=int(document["version"]),
                fraction_bits=int(document["fraction_bits"]),
                cores=int(document["cores"]),
                values=values,
                elapsed=replace(values, **{name: float(value) for name, value in document["elapsed"].items()}),
                residuals=tuple(Residual(**residual) for residual in document["residuals"]),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"These cost constants are not of this version ({error}): fit them anew with `hushlm cost --calibrate`."
            ) from error


@lru_cache(maxsize=4)
def load_constants(path: Path | None = None) -> CalibratedConstants:
    """The packaged constants, or those of a file.

    Raises:
        ValueError: if the file is missing or not of this version.
    """
    if path is None:
        return CalibratedConstants.from_json((files("hushlm.cost") / "constants" / DEFAULT_CONSTANTS).read_text(encoding="utf-8"))
    try:
        return CalibratedConstants.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The cost constants {path} cannot be read: {error.strerror}.") from error
