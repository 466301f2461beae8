"""From a checkpoint to a private program: `server/` (weights, private) and `client/` (tokenizer, no weights).

Which linear FFNs disappear is decided by measured error: the absorbed program is run with every tensor and every step's result
rounded to the engine's fraction bits, against the checkpoint's own function; where that is worse than it should be, the run of
absorbed layers is cut in half by an explicit product, and so on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.files import MANIFEST, new_folder, verify_manifest, write_atomic
from hushlm.plan import HUSH, Rewrites
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import DESCRIPTION_FILE, WEIGHTS_FILE, ProgramDescription, RevealPolicy, describe
from hushlm.private.program.fold import fold_weights, moving_bases
from hushlm.private.program.generate import PrivateGenerator

if TYPE_CHECKING:
    from hushlm.training.checkpoint import Checkpoint

__all__ = ["ExportReport", "choose_rewrites", "export_model", "rounded_error"]

ERROR_TOLERANCE = 0.01
"""Largest share of the logits' spread that rounding may move a logit by before an FFN is made explicit."""

SAMPLE_TOKENS = 32

LARGEST_PRODUCT_BITS = 62
"""A product has twice the fraction bits until it is truncated, and the engine truncates numbers below 2^62 right: with 18 fraction bits
products below 2^26, squares of numbers below 8192 (measured between two processes: of 8000 right, of 8500 wrong)."""


@dataclass(frozen=True)
class ExportReport:
    """What export decided.

    Attributes:
        folder: holds `server/` and `client/`.
        fingerprint: of the program; the same at both parties.
        absorbed_ffns: layers whose FFN disappeared.
        explicit_ffns: layers whose linear FFN stays a product.
        condition_number: the largest of the moving bases; 1 where nothing is absorbed.
        rounding_error: largest logit error of the rounded program, over the standard deviation of the logits.
        server_bytes: size of the weights.
    """

    folder: Path
    fingerprint: str
    absorbed_ffns: tuple[int, ...]
    explicit_ffns: tuple[int, ...]
    condition_number: float
    rounding_error: float
    server_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"folder": str(self.folder)}


def _reference_logits(
    description: ProgramDescription, weights: dict[str, np.ndarray], fraction_bits: int | None
) -> tuple[np.ndarray, float]:
    """Logits (2, V) of a fixed pseudo-random prompt and one token more, on the reference backend, and the largest number on the way."""
    shape = description.shape
    length = min(SAMPLE_TOKENS, shape.context - 2)
    prompt = np.random.default_rng(0).integers(0, shape.vocabulary, length).tolist()
    backend = ReferenceBackend(fraction_bits)
    generator = PrivateGenerator(backend, description, weights)
    answers = generator.generate(prompt, length, 2, RevealPolicy(kind="logits"), choose=lambda _: prompt[0])
    return np.stack([answer.logits for answer in answers if answer.logits is not None]), backend.largest


def rounded_error(
    state: Mapping[str, np.ndarray], architecture: Architecture, shape: ModelShape, rewrites: Rewrites, fraction_bits: int
) -> float:
    """Largest difference of logits between the program rounded to `fraction_bits` and in float64, over the logits' std.

    Infinite where a number is too large for a product (`LARGEST_PRODUCT_BITS`).
    """
    description = describe(architecture, shape, rewrites, fraction_bits=fraction_bits)
    weights = fold_weights(state, architecture, shape, rewrites)
    with np.errstate(all="ignore"):  # scores beyond the masked ones' divide by 0
        exact, largest = _reference_logits(description, weights, None)
    if not largest < 2.0 ** (LARGEST_PRODUCT_BITS - 2 * fraction_bits):
        return math.inf
    rounded, _ = _reference_logits(description, weights, fraction_bits)
    return float(np.abs(rounded - exact).max() / exact.std())


def choose_rewrites(
    state: Mapping[str, np.ndarray], architecture: Architecture, shape: ModelShape, fraction_bits: int, rewrites: Rewrites = HUSH
) -> tuple[Rewrites, float]:
    """Absorb every linear FFN that the fixed-point error allows.

    Returns:
        The rewrites, and their `rounded_error`: at most `ERROR_TOLERANCE`, or the least found.
    """
    best, least = rewrites, rounded_error(state, architecture, shape, rewrites, fraction_bits)
    if architecture.has_layer_norm or not architecture.feed_forward.is_linear:
        return best, least
    with_ffn = shape.layers - architecture.removed_ffns
    runs = 2
    while least > ERROR_TOLERANCE and runs <= with_ffn:
        cuts = tuple(sorted({round(with_ffn * cut / runs) for cut in range(1, runs)} - {0}))
        tried = replace(rewrites, explicit_ffns=tuple(cut - 1 for cut in cuts))
        error = rounded_error(state, architecture, shape, tried, fraction_bits)
        if error < least:
            best, least = tried, error
        runs *= 2
    return best, least


def export_model(
    checkpoint: Checkpoint, output: Path, *, fraction_bits: int = 18, pack_products: bool = True, rewrites: Rewrites = HUSH
) -> ExportReport:
    """Write the private program of a checkpoint.

    Args:
        checkpoint: from `load_checkpoint`.
        output: folder for `server/` and `client/`; each is replaced whole.
        fraction_bits: of fixed-point numbers.
        pack_products: fewest bytes (for a WAN); False saves the server CPU time on a LAN.
        rewrites: how the program is written.

    Raises:
        ValueError: if `checkpoint` is none or its folder is gone, if `output` holds other files, or if the numbers are too large for fixed
            point.
    """
    from safetensors.numpy import save

    if not isinstance(getattr(checkpoint, "folder", None), Path):
        raise ValueError(
            f"export_model takes a checkpoint as load_checkpoint returns it, not a {type(checkpoint).__name__}: a Hugging Face model "
            "becomes one by hushlm.huggingface.save_hf_checkpoint."
        )
    verify_manifest(checkpoint.folder)  # its digest becomes part of the program's description
    model = checkpoint.model
    architecture, shape = model.architecture.without_regulariser(), model.shape
    state = {name: tensor.numpy() for name, tensor in model.plain_state().items()}
    largest = max(float(np.abs(value).max()) for value in fold_weights(state, architecture, shape, rewrites).values())
    if not largest <= 2.0 ** (31 - fraction_bits):
        raise ValueError(
            f"The weights reach {largest:.3g}, too large for {fraction_bits} fraction bits: "
            "export with fewer bits or train with weight decay."
        )
    chosen, error = choose_rewrites(state, architecture, shape, fraction_bits, rewrites)
    if not error < math.inf:
        raise ValueError(
            f"The activations of a sample prompt are too large for {fraction_bits} fraction bits, with which products must stay below "
            f"2^{LARGEST_PRODUCT_BITS - 2 * fraction_bits}: export with fewer bits or train with weight decay."
        )
    weights = fold_weights(state, architecture, shape, chosen)
    tokenizer = checkpoint.tokenizer.to_str(pretty=True).encode()
    description = describe(
        architecture,
        shape,
        chosen,
        fraction_bits=fraction_bits,
        pack_products=pack_products,
        checkpoint=hashlib.sha256((checkpoint.folder / MANIFEST).read_bytes()).hexdigest(),
        tokenizer=hashlib.sha256(tokenizer).hexdigest(),
    )
    public = description.model_dump_json(indent=2)
    tensors = save({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()})
    with new_folder(output / "server", replace=True) as folder:
        write_atomic(folder / WEIGHTS_FILE, tensors)
        write_atomic(folder / DESCRIPTION_FILE, public)
    with new_folder(output / "client", replace=True) as folder:
        write_atomic(folder / "tokenizer.json", tokenizer)
        write_atomic(folder / DESCRIPTION_FILE, public)
    absorbable = architecture.feed_forward.is_linear and not architecture.has_layer_norm
    layers = [layer for layer in range(shape.layers) if architecture.has_ffn(layer, shape.layers)] if absorbable else []
    bases = moving_bases(state, architecture, shape, chosen)
    return ExportReport(
        folder=output,
        fingerprint=description.fingerprint,
        absorbed_ffns=tuple(layer for layer in layers if layer not in chosen.explicit_ffns),
        explicit_ffns=chosen.explicit_ffns,
        condition_number=max(float(np.linalg.cond(basis.matrix_DD)) for basis in bases),
        rounding_error=error,
        server_bytes=len(tensors),
    )
