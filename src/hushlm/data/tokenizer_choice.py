"""The tokenizer that a configuration names: a file, or one of one's own making."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hushlm.data.own_tokenizers import bpe_tokenizer, byte_tokenizer
from hushlm.data.tokenizer import Tokenizer, carries_state, read_library_tokenizer, separator_id
from hushlm.files import expand_user

__all__ = ["bpe_size", "file_key", "make_tokenizer", "tokenizer_file"]


def make_tokenizer(spec: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a `DataConfig.tokenizer`.

    "bytes": token ids are the UTF-8 bytes themselves, V = 256. "bpe:SIZE": byte-level BPE with V = SIZE at most, trained on
    `training_texts`; the same texts give the same tokenizer. Both give back any text exactly. Otherwise the path of a `tokenizer.json`.

    Raises:
        ValueError: if `spec` is none of these, or the vocabulary has no token that can separate documents.
    """
    if spec == "bytes":
        return Tokenizer(byte_tokenizer())
    if spec.startswith("bpe:"):
        return Tokenizer(bpe_tokenizer(bpe_size(spec), training_texts))
    path = tokenizer_file(spec)
    assert path is not None
    tokenizer = Tokenizer.from_file(path)
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
    path = expand_user(spec)
    if not path.is_file():
        raise ValueError(
            f"Unknown tokenizer {spec!r}: write 'bytes', 'bpe:SIZE' (for example 'bpe:1024'), or the path of a tokenizer.json."
        )
    return path


def file_key(path: Path) -> str:
    """What tells one `tokenizer.json` from another in the name of a token store: the sha256 of the file, hexadecimal.

    For a file that carries state it is the sha256 of what is left without: a store that was made with the state is not found again.

    Raises:
        ValueError: if the library can't read it.
    """
    content = path.read_bytes()
    library = read_library_tokenizer(content, str(path))
    return hashlib.sha256(Tokenizer(library).to_str().encode() if carries_state(library) else content).hexdigest()


def bpe_size(spec: str) -> int:
    """SIZE of "bpe:SIZE".

    Raises:
        ValueError: if it is not a whole number above 256, the bytes themselves.
    """
    text = spec.removeprefix("bpe:")
    if not (text.isascii() and text.isdigit()) or int(text) <= 256:
        raise ValueError(f"{spec!r}: the vocabulary of a BPE tokenizer must be a whole number above 256, for example 'bpe:1024'.")
    return int(text)
