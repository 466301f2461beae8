"""Masks: uniform words that nobody else can know or make again.

A mask hides a value only if it is uniform, secret and used once. So it never comes from a seed that a caller could choose: every
source draws 32 bytes of the operating system's generator and expands them with ChaCha20 (of the `cryptography` library).
"""

from __future__ import annotations

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from hushlm.private.engine.shares import Words

__all__ = ["MaskSource"]

PIECE_BYTES = 1 << 24
"""Keystream drawn at once."""


class MaskSource:
    """A stream of uniform words; two sources have nothing in common."""

    def __init__(self) -> None:
        self._stream = Cipher(ChaCha20(secrets.token_bytes(32), bytes(16)), None).encryptor()

    def words(self, shape: tuple[int, ...]) -> Words:
        """Uniform words modulo 2^64."""
        size = 8 * int(np.prod(shape))
        zeros = bytes(min(size, PIECE_BYTES))
        pieces = [self._stream.update(zeros[: min(PIECE_BYTES, size - start)]) for start in range(0, size, PIECE_BYTES)]
        return np.frombuffer(b"".join(pieces), np.uint64).reshape(shape).copy()
