"""The fitted numbers of the cost model, with a version: how many bytes and how much time one unit of each primitive takes.

The model (`hushlm.cost.primitives` and `hushlm.cost.operation_prices`) is linear in these numbers, so that `hushlm.calibration` can fit
them to counted runs by least squares.
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
    """What one unit of each primitive takes. "Forward" is from the client to the server, "back" from the server to the client.

    Bytes:
        compare_forward, compare_back: the transfers of digits in a comparison, for each element.
        opened_word: opening 64 secret bits, in each direction.
        shared_value: a ring element that is sent forward as the correlation of an oblivious transfer; in a selection, back as well.
        choice_byte: eight choices that the receiver of oblivious transfers sends.
        truncation_byte: each byte of the shift by which an element is truncated.
        reciprocal_factor, rsqrt_factor: turning bits into powers of two inside 1/x and 1/sqrt(x), for each element, forward.
        slot_request, slot_response: a ciphertext of elementwise products, on its way there and back.
        slot_sum_response: a ciphertext that comes back with the sum of two elementwise products.
        product_request, product_response: a ciphertext of matrix products, on its way there and back.
        bare_response, kept_coefficient: a response of a matrix product that is not packed, and each coefficient that is left in it.
        answer_base, answer_element: the share that is sent to open a result: its fixed part, and each of its elements.
        refill: one refill of one worker's stock of oblivious transfers.
        worker_set_up: starting one worker, in each direction.
        slot_keys, product_keys: the keys for elementwise and for matrix products, once in a session, in each direction.
    Round trips:
        *_rounds: the round trips of one call. A product with the server's matrix has none beyond those of its truncation, and a product
        of two shared matrices has more. The engine waits for an acknowledgement after every `SENT_AT_ONCE` ciphertexts, and
        `further_ciphertexts_rounds` is what each of these waits takes. `ask_rounds` comes on top where both parties ask each other for
        oblivious transfers.
    Seconds:
        *_seconds: the time of a call, of a message, of a line of a compiled program, of a ciphertext, of a key switch, of a
        multiplication of polynomials, or of an element. `ferret_worker_seconds` and `softspoken_worker_seconds` start one worker;
        `ask_seconds` is a message that asks for oblivious transfers, and `asked_transfer_seconds` one of them. They are either the CPU
        seconds of both parties, or the seconds that pass with no network between them; see `CalibratedConstants`.
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
    ask_rounds: float = 0.0

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
    ferret_worker_seconds: float = 0.0
    softspoken_worker_seconds: float = 0.0
    ask_seconds: float = 0.0
    asked_transfer_seconds: float = 0.0


@dataclass(frozen=True)
class Residual:
    """One micro-program: what was counted, beside what the fitted model says of it.

    Attributes:
        case: the micro-program's name.
        counted_bytes, predicted_bytes: the bytes of both directions together.
        counted_seconds, predicted_seconds: the seconds that passed; 0 where nothing was timed.
    """

    case: str
    counted_bytes: float
    predicted_bytes: float
    counted_seconds: float = 0.0
    predicted_seconds: float = 0.0

    @property
    def relative(self) -> float:
        """The error of the predicted bytes, as a share of the counted ones; 0 where nothing was sent."""
        return self.predicted_bytes / self.counted_bytes - 1 if self.counted_bytes else 0.0


@dataclass(frozen=True)
class CalibratedConstants:
    """Fitted constants, and where they come from.

    Attributes:
        engine: the engine's name, version and protocol, e.g. "Cheetah (SPU 0.9.5)".
        version: the version of the fit, which counts up with each new one.
        fraction_bits: the fraction bits of the fixed-point numbers for which the constants hold.
        cores: how many cores the machine had on which the seconds were taken; bytes do not depend on it.
        values: the constants, with seconds that are the CPU seconds of both parties together.
        elapsed: the same constants, but with the seconds that pass when both parties run on one idle machine of `cores` cores,
            with no network between them.
        residuals: how well each micro-program is predicted that the constants were fitted to.
    """

    engine: str
    version: int
    fraction_bits: int
    cores: int
    values: Constants
    elapsed: Constants
    residuals: tuple[Residual, ...]

    def to_json(self) -> str:
        """The document that `from_json` reads."""
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
        """The constants of a document that `to_json` made.

        Raises:
            ValueError: in one sentence, where the document does not hold exactly the constants that this version knows.
        """
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
    """The constants of a file, or those that come with the package where `path` is None.

    Raises:
        ValueError: if the file cannot be read or belongs to another version.
    """
    if path is None:
        return CalibratedConstants.from_json((files("hushlm.cost") / "constants" / DEFAULT_CONSTANTS).read_text(encoding="utf-8"))
    try:
        return CalibratedConstants.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The cost constants {path} cannot be read: {error.strerror}.") from error
