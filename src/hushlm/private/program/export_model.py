"""Making a private program from a checkpoint: a folder `server/` with the private weights, and a folder `client/` with the tokenizer.

Linear feed-forward networks (FFNs) are absorbed into the neighbouring maps where the error allows it, and the error is measured: the
program is run with every tensor and every step's result rounded to the engine's fraction bits, and compared with the same program in
float64. Where the error is too large, the layers are divided into two runs by an FFN that is computed explicitly, then into four, and
so on.
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
from hushlm.data.chat_files import ChatFiles, read_chat_files
from hushlm.data.tokenizer import Tokenizer
from hushlm.files import MANIFEST, new_folder, verify_manifest, write_atomic
from hushlm.plan import HUSH, Rewrites
from hushlm.plan.engine_tiles import LARGEST_PRODUCT_BITS
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import DESCRIPTION_FILE, WEIGHTS_FILE, ProgramDescription, RevealPolicy, describe
from hushlm.private.program.fold import fold_weights, moving_bases
from hushlm.private.program.generate import PrivateGenerator

if TYPE_CHECKING:
    from hushlm.training.checkpoint import Checkpoint

__all__ = ["ExportReport", "choose_rewrites", "export_model", "rounded_error"]

ERROR_TOLERANCE = 0.01
"""How far rounding may move a logit, in standard deviations of the logits, before an FFN is made explicit."""

SAMPLE_TOKENS = 32
"""How many tokens the prompt has on which the error is measured."""


@dataclass(frozen=True)
class ExportReport:
    """What export decided.

    Attributes:
        folder: the folder that holds `server/` and `client/`.
        fingerprint: the fingerprint of the program, which is the same at both parties.
        absorbed_ffns: the layers whose FFN disappeared.
        explicit_ffns: the layers whose linear FFN remains a product.
        condition_number: the largest condition number of the moving bases; 1 where nothing is absorbed.
        rounding_error: the largest error of a logit of the rounded program, divided by the standard deviation of the logits.
        server_bytes: the size of the weights in bytes.
    """

    folder: Path
    fingerprint: str
    absorbed_ffns: tuple[int, ...]
    explicit_ffns: tuple[int, ...]
    condition_number: float
    rounding_error: float
    server_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self) | {"folder": str(self.folder)}


def _reference_logits(
    description: ProgramDescription, weights: dict[str, np.ndarray], fraction_bits: int | None
) -> tuple[np.ndarray, ReferenceBackend]:
    """The logits (2, V) after a fixed pseudo-random prompt and after one token more, and what computed them."""
    shape = description.shape
    length = min(SAMPLE_TOKENS, shape.context - 2)
    prompt = np.random.default_rng(0).integers(0, shape.vocabulary, length).tolist()
    backend = ReferenceBackend(fraction_bits)
    generator = PrivateGenerator(backend, description, weights)
    answers = generator.generate(prompt, length, 2, RevealPolicy(kind="logits"), choose=lambda _: prompt[0])
    return np.stack([answer.logits for answer in answers if answer.logits is not None]), backend


def rounded_error(
    state: Mapping[str, np.ndarray], architecture: Architecture, shape: ModelShape, rewrites: Rewrites, fraction_bits: int
) -> float:
    """The largest difference between a logit of the program rounded to `fraction_bits` and the same logit in float64.

    It is divided by the standard deviation of the logits, and it is infinite where a number is too large for a product
    (`LARGEST_PRODUCT_BITS`).

    Raises:
        ValueError: if the weights of a power kernel sum up to more than `LARGEST_POWER_SUM`.
    """
    description = describe(architecture, shape, rewrites, fraction_bits=fraction_bits)
    weights = fold_weights(state, architecture, shape, rewrites)
    with np.errstate(all="ignore"):  # scores beyond the masked ones' divide by 0
        exact, backend = _reference_logits(description, weights, None)
    if architecture.power and not backend.largest_divisor < 1:
        raise ValueError(
            f"The attention weights of a sample prompt sum up to {backend.largest_divisor:.3g} times what a private program can divide by: "
            "train with normalised queries and keys (qk), or from a higher temperature."
        )
    if not backend.largest < 2.0 ** (LARGEST_PRODUCT_BITS - 2 * fraction_bits):
        return math.inf
    rounded, _ = _reference_logits(description, weights, fraction_bits)
    return float(np.abs(rounded - exact).max() / exact.std())


def choose_rewrites(
    state: Mapping[str, np.ndarray], architecture: Architecture, shape: ModelShape, fraction_bits: int, rewrites: Rewrites = HUSH
) -> tuple[Rewrites, float]:
    """Absorb as many linear FFNs as the error of fixed-point numbers allows.

    Returns:
        The rewrites, and their `rounded_error`, which is at most `ERROR_TOLERANCE` or else the least that was found.
    """
    best, least = rewrites, rounded_error(state, architecture, shape, rewrites, fraction_bits)
    if architecture.has_block_norm or not architecture.feed_forward.is_linear:
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
        checkpoint: a checkpoint as `load_checkpoint` returns it.
        output: the folder for `server/` and `client/`, each of which is replaced as a whole.
        fraction_bits: how many fraction bits the fixed-point numbers have.
        pack_products: whether to move the fewest bytes, which is best over a wide-area network. False saves the server CPU time, which is
            best over a local one.
        rewrites: how the program is written.

    Raises:
        ValueError: if `checkpoint` is none or its folder is gone, if `output` holds other files, or if the numbers are too large for fixed
            point; or if a file with the model's chat template cannot be read.
    """
    from safetensors.numpy import save

    if not isinstance(getattr(checkpoint, "folder", None), Path):
        raise ValueError(
            f"export_model takes a checkpoint as load_checkpoint returns it, not a {type(checkpoint).__name__}: a Hugging Face model "
            "becomes one by hushlm.huggingface.save_hf_checkpoint, or `hushlm import`."
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
    chat = _chat_files(checkpoint)
    public = description.model_dump_json(indent=2)
    tensors = save({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()})
    with new_folder(output / "server", replace=True) as folder:
        write_atomic(folder / WEIGHTS_FILE, tensors)
        write_atomic(folder / DESCRIPTION_FILE, public)
    with new_folder(output / "client", replace=True) as folder:
        write_atomic(folder / "tokenizer.json", tokenizer)
        for name, content in chat.contents().items():
            write_atomic(folder / name, content)
        write_atomic(folder / DESCRIPTION_FILE, public)
    absorbable = architecture.feed_forward.is_linear and not architecture.has_block_norm
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


def _chat_files(checkpoint: Checkpoint) -> ChatFiles:
    """What is known of conversations: from the checkpoint's own files, or from those beside the tokenizer that it was trained with.

    Raises:
        ValueError: one sentence, if such a file cannot be read.
    """
    found = read_chat_files(checkpoint.folder)
    beside = Path(checkpoint.config.data.tokenizer).expanduser()
    if found != ChatFiles() or beside.suffix != ".json" or not beside.is_file():
        return found
    # The file may have been replaced since the training.
    return read_chat_files(beside.parent) if Tokenizer.from_file(beside).to_str() == checkpoint.tokenizer.to_str() else found
