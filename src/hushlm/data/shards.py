"""Tokens on disk in shards: made by several workers, resumable, and always the same bytes in the same order.

A worker turns one part of a corpus after another into pieces of about `PIECE_BYTES` of text. A piece is three files of tokens, one a
split, and a note that is written last; a part taken up again goes on after its last whole piece. Where a piece ends depends on the
texts alone, so neither the number of workers nor an interruption shows in the result.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hushlm.data.parts import Part
from hushlm.data.tokenizer import Tokenizer
from hushlm.files import write_atomic

__all__ = ["SPLITS", "Piece", "ShardedTokens", "Tokens", "build_pieces", "open_shards", "split_of"]

SPLITS = ("train", "validation", "test")

PIECE_BYTES = 64_000_000
"""Text a piece has at least, unless its part ends before."""

_BATCH_BYTES = 1_000_000
"""Handed to the tokenizer at once: enough for its threads, little memory."""


class ShardedTokens:
    """One array of tokens that lies in several files, indexed like an array of one dimension. Read-only."""

    def __init__(self, shards: Sequence[npt.NDArray[np.unsignedinteger]]) -> None:
        self._shards = list(shards)
        self._ends = np.cumsum([len(shard) for shard in shards])
        self.dtype = shards[0].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """Tokens at a position, a slice, or an array of positions of any shape."""
        if isinstance(index, slice):
            return self[np.arange(*index.indices(len(self)))]
        wanted = np.asarray(index)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"There are {len(self)} tokens, and position {index} is none of them.")
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        found = np.empty(wanted.shape, dtype=self.dtype)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            found[here] = self._shards[shard][wanted[here] - (self._ends[shard] - len(self._shards[shard]))]
        return found if found.ndim else found[()]


Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | ShardedTokens


def open_shards(files: Sequence[Path]) -> Tokens:
    """Memory maps of `.npy` files, as one array."""
    shards = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
    return shards[0] if len(shards) == 1 else ShardedTokens(shards)


def split_of(path: str, validation_share: float) -> str:
    """The split of a document: by a hash of its relative path alone, so adding or removing files moves no other file.

    With u the first 8 bytes of sha256(path) as a fraction: "validation" for u < share, "test" for share <= u < 2 share, else "train".
    """
    fraction = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    return "validation" if fraction < validation_share else "test" if fraction < 2 * validation_share else "train"


@dataclass(frozen=True)
class Piece:
    """What a finished piece holds.

    Attributes:
        part, number: its place in the order.
        last: no piece of its part follows.
        read: texts of its part up to its end, those left out included.
        skipped: texts left out.
        documents, bytes, tokens: of each split.
    """

    part: int
    number: int
    last: bool
    read: int
    skipped: int
    documents: dict[str, int]
    bytes: dict[str, int]
    tokens: dict[str, int]

    def file(self, folder: Path, split: str) -> Path:
        """Of a split's tokens."""
        return folder / f"{self.part:05d}-{self.number:05d}.{split}.npy"

    def note(self, folder: Path) -> Path:
        """Written last."""
        return folder / f"{self.part:05d}-{self.number:05d}.json"


@dataclass(frozen=True)
class _Task:
    """One part for one worker."""

    index: int
    part: Part
    folder: Path
    tokenizer: str
    separator: int
    kind: str
    validation_share: float
    piece_bytes: int


def build_pieces(
    parts: Sequence[Part], folder: Path, tokenizer: Tokenizer, separator: int, kind: np.dtype, validation_share: float, workers: int
) -> Iterator[list[Piece]]:
    """The pieces of each part, in order, as parts are finished; what `folder` already has is not made again.

    Args:
        parts: of the corpus.
        folder: of the pieces; it must only ever be used with these very arguments.
        tokenizer: text to ids.
        separator: token between documents.
        kind: of the numbers on disk.
        validation_share: see `split_of`.
        workers: processes; 1 works in this one.

    Raises:
        ValueError: from `Part.texts`.
    """
    text = tokenizer.to_str()
    tasks = [_Task(index, part, folder, text, separator, kind.name, validation_share, PIECE_BYTES) for index, part in enumerate(parts)]
    if workers == 1 or len(parts) == 1:
        yield from map(_build_part, tasks)
        return
    # Spawned, not forked: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(parts)), multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_build_part, tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _build_part(task: _Task) -> list[Piece]:
    pieces: list[Piece] = []
    while not pieces or not pieces[-1].last:
        note = Piece(task.index, len(pieces), False, 0, 0, {}, {}, {}).note(task.folder)
        if not note.is_file():
            break
        pieces.append(Piece(**json.loads(note.read_bytes())))
    if pieces and pieces[-1].last:
        return pieces
    tokenizer = Tokenizer.from_str(task.tokenizer)
    texts = task.part.texts(pieces[-1].read if pieces else 0)
    read, ended = pieces[-1].read if pieces else 0, False
    while not ended:
        draft = _Draft(task, tokenizer)
        while draft.size < task.piece_bytes:
            found = next(texts, None)
            if found is None:
                ended = True
                break
            read += 1
            draft.add(*found)
        # A part that ends exactly with a piece gets an empty last one: whether more follows is not known before it is asked.
        pieces.append(draft.write(len(pieces), read, ended))
    return pieces


class _Draft:
    """A piece being made: token ids of each split so far, and texts that wait for the tokenizer."""

    def __init__(self, task: _Task, tokenizer: Tokenizer) -> None:
        self._task, self._tokenizer = task, tokenizer
        self._ids: dict[str, list[npt.NDArray[np.unsignedinteger]]] = {split: [] for split in SPLITS}
        self._waiting: list[tuple[str, str]] = []
        self._waiting_bytes = 0
        self._documents, self._bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        self._skipped = 0
        self.size = 0

    def add(self, identifier: str, text: str | None) -> None:
        """The next document of the part."""
        if not text:
            self._skipped += text is None
            return
        split, length = split_of(identifier, self._task.validation_share), len(text.encode("utf-8", "surrogatepass"))
        self._waiting.append((split, text))
        self._documents[split] += 1
        self._bytes[split] += length
        self.size += length
        self._waiting_bytes += length
        if self._waiting_bytes >= _BATCH_BYTES:
            self._encode()

    def _encode(self) -> None:
        ids = self._tokenizer.encode_batch([text for _, text in self._waiting])
        for (split, _), found in zip(self._waiting, ids, strict=True):
            self._ids[split].append(np.array([*found, self._task.separator], dtype=self._task.kind))
        self._waiting, self._waiting_bytes = [], 0

    def write(self, number: int, read: int, last: bool) -> Piece:
        """Put the piece on disk, its note last."""
        if self._waiting:
            self._encode()
        empty = np.empty(0, dtype=self._task.kind)
        tokens = {split: np.concatenate(self._ids[split] or [empty]) for split in SPLITS}
        counts = {split: len(tokens[split]) for split in SPLITS}
        piece = Piece(self._task.index, number, last, read, self._skipped, self._documents, self._bytes, counts)
        for split in SPLITS:
            if counts[split]:
                buffer = BytesIO()
                np.save(buffer, tokens[split], allow_pickle=False)
                write_atomic(piece.file(self._task.folder, split), buffer.getvalue())
        write_atomic(piece.note(self._task.folder), json.dumps(piece.__dict__))
        return piece
