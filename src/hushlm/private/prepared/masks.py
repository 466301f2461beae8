"""Masks: uniform words that nobody else can know or make again.

A mask hides a value only if it is uniform, secret and used once. So it never comes from a seed that a caller could choose: every
source draws 32 bytes of the operating system's generator and expands them with ChaCha20 (of the `cryptography` library). Material is
stored as this seed instead of its masks; only a party's own store gives one back.
"""

from __future__ import annotations

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from hushlm.plan.needs import SEED_BYTES
from hushlm.private.engine.shares import Words

__all__ = ["MaskSource"]

PIECE_BYTES = 1 << 24
"""Keystream drawn at once."""


class MaskSource:
    """A stream of uniform words; two sources have nothing in common.

    Attributes:
        seed: what was drawn, as secret as the words.
    """

    def __init__(self) -> None:
        self._begin(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def again(cls, seed: bytes) -> MaskSource:
        """The stream of a source that drew this seed, from its beginning: for the words of material that was stored as its seed."""
        source = cls.__new__(cls)
        source._begin(seed)
        return source

    def _begin(self, seed: bytes) -> None:
        self.seed = bytearray(seed)
        self._stream = Cipher(ChaCha20(seed, bytes(16)), None).encryptor()

    def words(self, shape: tuple[int, ...]) -> Words:
        """Uniform words modulo 2^64."""
        size = 8 * int(np.prod(shape))
        zeros = bytes(min(size, PIECE_BYTES))
        pieces = [self._stream.update(zeros[: min(PIECE_BYTES, size - start)]) for start in range(0, size, PIECE_BYTES)]
        return np.frombuffer(b"".join(pieces), np.uint64).reshape(shape).copy()
