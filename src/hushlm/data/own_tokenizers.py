"""Tokenizers of one's own making: the bytes themselves, and a byte-level BPE trained on a corpus. Both give back any text exactly."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

__all__ = ["bpe_tokenizer", "byte_tokenizer"]


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Token ids are the UTF-8 bytes themselves, V = 256."""
    # A BPE without merges leaves single bytes; use_regex=False because there are no words to find.
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=_byte_alphabet(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bpe_tokenizer(size: int, texts: Iterable[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most `size` tokens, trained on `texts`; the same texts give the same tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
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
