"""Shares of the engine as arrays of words, and words that the parties send each other beside the engine's own protocol.

A secret is additive: the engine holds one 64-bit word an element at each party, and value = (client's word + server's word) mod 2^64,
read as a signed number with the fraction bits of `EngineSettings`. So sums, differences and products with public whole numbers are plain
integer arithmetic on the words of each party; only truncations, comparisons and products of two secrets need the other side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushlm.private.engine.engine_settings import Party
from hushlm.private.engine.mpc_library import load_engine
from hushlm.private.engine.runtime import Engine
from hushlm.private.engine.traffic import Traffic

__all__ = ["WordLink", "Words", "decode", "encode", "install_bits", "install_private", "install_words", "share_content", "words_of"]

Words = NDArray[np.uint64]
"""One party's words of a shared value, in the shape of the value."""

CHUNK_BYTES = 128 * 1024 * 1024
"""Most bytes of one piece of a share: the engine's messages must stay below 2 GB."""


def encode(values: np.ndarray, fraction_bits: int) -> Words:
    """Real numbers as words of fixed-point numbers: round(x 2^fraction_bits) mod 2^64."""
    return np.rint(np.asarray(values, np.float64) * 2.0**fraction_bits).astype(np.int64).view(np.uint64)


def decode(words: Words, fraction_bits: int) -> np.ndarray:
    """The inverse of `encode`, of the sum of both parties' words."""
    return np.ascontiguousarray(words).view(np.int64) / 2.0**fraction_bits


def share_content(share: Any) -> tuple[str, tuple[int, ...], bytes]:
    """How a share is stored (the engine's name for it), its shape, and its raw bytes in row order."""
    _, libspu = load_engine()
    meta, chunks = libspu.ValueMeta(), []
    if not meta.ParseFromString(share.meta):
        raise RuntimeError("The engine returned a share whose description cannot be read.")
    for raw in share.share_chunks:
        chunk = libspu.ValueChunk()
        if not chunk.ParseFromString(raw):
            raise RuntimeError("The engine returned a piece of a share that cannot be read.")
        chunks.append((chunk.chunk_offset, chunk.content))
    return meta.storage_type, tuple(meta.shape.dims), b"".join(content for _, content in sorted(chunks))


def make_share(values: np.ndarray, storage: str, data_type: Any, private: bool = False) -> Any:
    """A share of the engine with this content; the inverse of `share_content`."""
    _, libspu = load_engine()
    meta, share = libspu.ValueMeta(), libspu.Share()
    meta.data_type, meta.storage_type = data_type, storage
    meta.visibility = libspu.Visibility.VIS_PRIVATE if private else libspu.Visibility.VIS_SECRET
    meta.shape = list(values.shape)
    raw, chunks = np.ascontiguousarray(values).tobytes(), []
    for start in range(0, max(1, len(raw)), CHUNK_BYTES):
        chunk = libspu.ValueChunk()
        chunk.total_bytes, chunk.chunk_offset, chunk.content = len(raw), start, raw[start : start + CHUNK_BYTES]
        chunks.append(chunk.SerializeToString())
    share.meta, share.share_chunks = meta.SerializeToString(), chunks
    return share


def words_of(engine: Engine, name: str) -> Words:
    """This party's words of a variable, additive whatever the engine's own form of it is.

    Of a value private to one party, the owner has all and the other party zeros; of a public value, the client has all.

    Raises:
        ValueError: if the variable is shared in another way (as bits, for example).
    """
    storage, shape, raw = share_content(engine.share(name))
    words = np.frombuffer(raw, np.uint64).copy() if storage.endswith(("<FM64>", "<FM64,0>", "<FM64,1>")) else np.empty(0, np.uint64)
    if storage.startswith("Pub2k"):
        return words.reshape(shape) if engine.party is Party.CLIENT else np.zeros(shape, np.uint64)
    if storage.startswith("Priv2k") and not storage.endswith(f",{int(engine.party)}>"):
        return np.zeros(shape, np.uint64)
    if not storage.startswith(("cheetah.AShr", "Priv2k")) or words.size != int(np.prod(shape)):
        raise ValueError(f"{name} is stored as {storage}, which is not a share of a number in the ring of 64 bits.")
    return words.reshape(shape)


def install_words(engine: Engine, name: str, words: Words, whole: bool = False) -> None:
    """Make a secret variable of both parties' words.

    Args:
        whole: as whole numbers, whose products the engine does not truncate; otherwise as fixed-point numbers.
    """
    _, libspu = load_engine()
    kind = libspu.DataType.DT_I64 if whole else libspu.DataType.DT_F32
    engine.install(name, make_share(np.asarray(words, np.uint64), "cheetah.AShr<FM64>", kind))


def install_private(engine: Engine, name: str, owner: Party, shape: tuple[int, ...], words: Words | None) -> None:
    """Make a variable of whole numbers that its owner alone knows: words at the owner, None at the other party. Nothing is sent."""
    assert (words is not None) == (owner is engine.party), f"{name}: only its owner has words"
    _, libspu = load_engine()
    values = np.zeros(shape, np.uint64) if words is None else words
    assert values.shape == tuple(shape), (name, values.shape, shape)
    engine.install(name, make_share(values, f"Priv2k<FM64,{int(owner)}>", libspu.DataType.DT_I64, private=True))


def install_bits(engine: Engine, name: str, bits: NDArray[np.unsignedinteger]) -> None:
    """Make a secret truth value of both parties' bits, the exclusive or of which it is."""
    _, libspu = load_engine()
    engine.install(name, make_share(bits.astype(np.uint64) & np.uint64(1), "cheetah.BShr<FM64,1>", libspu.DataType.DT_I1))


class WordLink:
    """Words sent from party to party over the engine's link, in step at both ends, each message counted.

    Args:
        engine: whose link is used; the engine itself must be idle meanwhile.

    Attributes:
        traffic: everything sent and received through this object since it was last set.
    """

    def __init__(self, engine: Engine) -> None:
        assert engine.channel is not None, "an engine that simulates has no link"
        self.party, self._context = engine.party, engine.channel.context
        self.traffic = Traffic()

    def send(self, words: np.ndarray) -> None:
        """Send an array; the other party knows its shape and type. It is under way when this returns: nobody waits for its arrival,
        which would cost a round trip for every opening where half a one is enough."""
        raw = np.ascontiguousarray(words).tobytes()
        self._context.send_async(int(self.party.other), raw)
        self.traffic += Traffic(sent_bytes=len(raw), sent_messages=1)

    def receive(self, shape: tuple[int, ...], kind: Any = np.uint64) -> np.ndarray:
        """Receive an array of a shape and type known beforehand.

        Raises:
            ConnectionError: if what comes is not of that size: the parties are not in step.
        """
        raw = self._context.recv(int(self.party.other))
        self.traffic += Traffic(received_bytes=len(raw), received_messages=1)
        wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
        if len(raw) != wanted:
            raise ConnectionError(f"The other party sent {len(raw)} bytes where {wanted} were due: the parties are not in step.")
        return np.frombuffer(raw, kind).reshape(shape)

    def open(self, *shares: Words) -> list[Words]:
        """Make values public to both parties: each sends its words, all in one message, and adds the other's."""
        mine = np.concatenate([share.reshape(-1) for share in shares])
        self.send(mine)
        both = mine + self.receive(mine.shape)
        cuts = np.cumsum([share.size for share in shares])[:-1]
        return [part.reshape(share.shape) for part, share in zip(np.split(both, cuts), shares, strict=True)]
