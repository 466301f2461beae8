"""Tokenizers: bytes, a byte-level BPE trained on the corpus, or a ready `tokenizer.json`; all from the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["make_tokenizer", "separator_id", "tokenizer_file"]

_SEPARATORS = ("<|endoftext|>", "</s>", "<eos>", "\u0100")
"""End of document, the first that the vocabulary has. The last is the byte NUL in the byte-level alphabet: no text file
contains it, so our own vocabularies need no special token and "bytes" has exactly 256."""


def make_tokenizer(spec: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a `DataConfig.tokenizer`.

    "bytes": token ids are the UTF-8 bytes themselves, V = 256. "bpe:SIZE": byte-level BPE with V = SIZE at most, trained on
    `training_texts`; the same texts give the same tokenizer. Both give back any text exactly. Otherwise the path of a `tokenizer.json`.

    Raises:
        ValueError: if `spec` is none of these, or the vocabulary has no token that can separate documents.
    """
    if spec == "bytes":
        return _bytes()
    if spec.startswith("bpe:"):
        return _bpe(bpe_size(spec), training_texts)
    path = tokenizer_file(spec)
    assert path is not None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is not a tokenizer.json that the tokenizers library can read: {error}.") from None
    separator_id(tokenizer)
    return tokenizer


def tokenizer_file(spec: str) -> Path | None:
    """The file of a `DataConfig.tokenizer`, None for "bytes" and "bpe:SIZE".

    Raises:
        ValueError: if `spec` is malformed or its file does not exist.
    """
    if spec == "bytes":
        return None
    if spec.startswith("bpe:"):
        bpe_size(spec)
        return None
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ValueError(
            f"Unknown tokenizer {spec!r}: write 'bytes', 'bpe:SIZE' (for example 'bpe:1024'), or the path of a tokenizer.json."
        )
    return path


def bpe_size(spec: str) -> int:
    """SIZE of "bpe:SIZE".

    Raises:
        ValueError: if it is not a whole number above 256, the bytes themselves.
    """
    text = spec.removeprefix("bpe:")
    if not (text.isascii() and text.isdigit()) or int(text) <= 256:
        raise ValueError(f"{spec!r}: the vocabulary of a BPE tokenizer must be a whole number above 256, for example 'bpe:1024'.")
    return int(text)


def separator_id(tokenizer: Tokenizer) -> int:
    """Token id between documents.

    Raises:
        ValueError: if the vocabulary has none.
    """
    for token in _SEPARATORS:
        if (found := tokenizer.token_to_id(token)) is not None:
            return found
    raise ValueError("The tokenizer has no token that ends a document: add '<|endoftext|>' to its vocabulary.")


def _bytes() -> Tokenizer:
    # A BPE without merges leaves single bytes; use_regex=False because there are no words to find.
    tokenizer = Tokenizer(models.BPE(vocab=_byte_alphabet(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(size: int, texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def _byte_alphabet() -> dict[str, int]:
    """Character of the byte-level alphabet to byte: printable bytes stand for themselves, the others follow from U+0100 in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
