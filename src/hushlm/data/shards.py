"""Tokens on disk in shards: made by several workers, resumable, and always the same bytes in the same order.

A worker turns one part of a corpus after another into pieces of about `PIECE_BYTES` of text. A piece is three files of tokens, one a
split, and a note that is written last; a part taken up again goes on after its last whole piece. Where a piece ends depends on the
texts alone, so neither the number of workers nor an interruption shows in the result.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hushlm.data.long_text import Stretch
from hushlm.data.parts import NOT_UTF8, ChangedError, LeftOut, Note, Part
from hushlm.data.splits import SPLITS, cut_by_position, split_of
from hushlm.data.tokenizer import Tokenizer
from hushlm.files import write_atomic

__all__ = ["Piece", "ShardedTokens", "Tokens", "build_pieces", "open_shards"]

PIECE_BYTES = 64_000_000
"""How much text a piece has at least, unless its part ends before."""

_BATCH_BYTES = 1_000_000
"""How much text is handed to the tokenizer at once: enough for its threads, little memory."""


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


@dataclass(frozen=True)
class Piece:
    """What a finished piece holds.

    Attributes:
        part, number: the piece's place in the order.
        last: whether no piece of its part follows.
        read: how many texts of its part were read up to its end, those left out included.
        skipped: how many documents were left out because they are not text.
        documents, bytes, tokens: how many each split has in it. A document counts where it ends.
        lost: how many documents or rows with text were left out, by reason.
        empty: how many held no text, by reason.
        notes: how many texts were not read from the usual place, by place.
    """

    part: int
    number: int
    last: bool
    read: int
    skipped: int
    documents: dict[str, int]
    bytes: dict[str, int]
    tokens: dict[str, int]
    lost: dict[str, int] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def file(self, folder: Path, split: str) -> Path:
        """Where the tokens of a split lie."""
        return folder / f"{self.part:05d}-{self.number:05d}.{split}.npy"

    def note(self, folder: Path) -> Path:
        """Where these facts lie; the note is written last."""
        return folder / f"{self.part:05d}-{self.number:05d}.json"


@dataclass(frozen=True)
class _Task:
    """One part for one worker.

    Attributes:
        begin_bytes: how much text of the corpus lies before this part; of use only with `ends`.
        ends: where the splits end, see `build_pieces`.
    """

    index: int
    part: Part
    folder: Path
    tokenizer: str
    separator: int
    kind: str
    validation_share: float
    piece_bytes: int
    begin_bytes: int
    ends: tuple[int, int] | None


def build_pieces(
    parts: Sequence[Part],
    folder: Path,
    tokenizer: Tokenizer,
    separator: int,
    kind: np.dtype,
    validation_share: float,
    workers: int,
    *,
    ends: tuple[int, int] | None = None,
    part_bytes: Sequence[int] = (),
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Piece]:
    """The pieces of each part, in order, as they are finished; what `folder` already has is not made again.

    Args:
        parts: the parts of the corpus.
        folder: where the pieces lie; it must only ever be used with these very arguments.
        tokenizer: text to ids.
        separator: the token between documents.
        kind: the type of the numbers on disk.
        validation_share: see `split_of`.
        workers: how many processes; 1 works in this one.
        ends: where the training text and the validation text end, counted in bytes of text from the beginning of the corpus, to split by
            position; None to split by the documents' names.
        part_bytes: how much text each part has; needed with `ends`.
        on_bytes: called with the number of bytes just turned into tokens; with several workers as parts are finished.

    Raises:
        ValueError: if a part can't be read, from `Part.texts`.
    """
    text = tokenizer.to_str()
    begins = [sum(part_bytes[:index]) for index in range(len(parts))] if ends else [0] * len(parts)
    tasks = [
        _Task(index, part, folder, text, separator, kind.name, validation_share, PIECE_BYTES, begin, ends)
        for index, (part, begin) in enumerate(zip(parts, begins, strict=True))
    ]
    if workers == 1 or len(parts) == 1:
        for task in tasks:
            yield from _build_part(task, on_bytes)
        return
    # Spawned, not forked: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(parts)), multiprocessing.get_context("spawn")) as pool:
        try:
            for pieces in pool.map(_build_whole_part, tasks):
                if on_bytes is not None:
                    on_bytes(sum(sum(piece.bytes.values()) for piece in pieces))
                yield from pieces
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _build_whole_part(task: _Task) -> list[Piece]:
    return list(_build_part(task, None))


def _build_part(task: _Task, on_bytes: Callable[[int], None] | None) -> Iterator[Piece]:
    made: list[Piece] = []
    while not made or not made[-1].last:
        note = Piece(task.index, len(made), False, 0, 0, {}, {}, {}).note(task.folder)
        if not note.is_file():
            break
        made.append(Piece(**json.loads(note.read_bytes())))
    yield from made
    number, read = len(made), made[-1].read if made else 0
    at = task.begin_bytes + sum(sum(piece.bytes.values()) for piece in made)
    if made and made[-1].last:
        return
    tokenizer = Tokenizer.from_str(task.tokenizer)
    texts = task.part.texts(read)
    ended = False
    try:
        while not ended:
            draft = _Draft(task, tokenizer, at, on_bytes)
            while draft.size < task.piece_bytes:
                found = next(texts, None)
                if found is None:
                    ended = True
                    break
                read += 1
                draft.add(*found)
            # A part that ends exactly with a piece gets an empty last one: whether more follows is not known before it is asked.
            piece = draft.write(number, read, ended)
            yield piece
            number, at = number + 1, at + draft.size
    except ChangedError:
        # What was made of this part may be from another version of the file.
        for note in task.folder.glob(f"{task.index:05d}-*.json"):
            note.unlink()
        raise


class _Draft:
    """A piece being made: token ids of each split so far, and texts that wait for the tokenizer."""

    def __init__(self, task: _Task, tokenizer: Tokenizer, at: int, on_bytes: Callable[[int], None] | None) -> None:
        self._task, self._tokenizer, self._at, self._on_bytes = task, tokenizer, at, on_bytes
        self._ids: dict[str, list[npt.NDArray[np.integer]]] = {split: [] for split in SPLITS}
        self._waiting: list[tuple[str, str, bool]] = []
        self._waiting_bytes = 0
        self._documents, self._bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        self._lost: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self.size = 0

    def add(self, identifier: str, text: str | LeftOut | Note | None) -> None:
        """The next text of the part."""
        if isinstance(text, Note):
            self._notes[text.reason] += 1
            return
        if text is None:
            text = LeftOut(NOT_UTF8)
        if isinstance(text, str):
            try:
                content = text.encode()
            except UnicodeEncodeError:
                text = LeftOut("with half a character (a lone surrogate)")
        if isinstance(text, LeftOut):
            (self._lost if text.lost else self._empty)[text.reason] += 1
            return
        if not text:
            return
        ends = not isinstance(text, Stretch)
        if self._task.ends is None:
            split = split_of(identifier, self._task.validation_share)
            stretches = [(split, text, ends)]
        else:
            cut = cut_by_position(text, self._at + self.size, self._task.ends)
            # What a border cuts apart become two documents.
            stretches = [(split, head, ends or number < len(cut)) for number, (split, head) in enumerate(cut, start=1)]
            split = cut[-1][0]
        self._documents[split] += ends
        for to, head, _ in stretches:
            self._bytes[to] += len(content) if len(stretches) == 1 else len(head.encode())
        self._waiting += stretches
        self.size += len(content)
        self._waiting_bytes += len(content)
        if self._waiting_bytes >= _BATCH_BYTES:
            self._encode()

    def _encode(self) -> None:
        separator = np.array([self._task.separator], dtype=self._task.kind)
        ids = self._tokenizer.encode_batch([text for _, text, _ in self._waiting], self._task.kind)
        for (split, _, ends), found in zip(self._waiting, ids, strict=True):
            self._ids[split] += [found, separator] if ends else [found]
        if self._on_bytes is not None:
            self._on_bytes(self._waiting_bytes)
        self._waiting, self._waiting_bytes = [], 0

    def write(self, number: int, read: int, last: bool) -> Piece:
        """Put the piece on disk, its note last."""
        if self._waiting:
            self._encode()
        empty = np.empty(0, dtype=self._task.kind)
        tokens = {split: np.concatenate(self._ids[split] or [empty]) for split in SPLITS}
        counts = {split: len(tokens[split]) for split in SPLITS}
        skipped = sum(self._lost.values())
        piece = Piece(
            self._task.index,
            number,
            last,
            read,
            skipped,
            self._documents,
            self._bytes,
            counts,
            dict(self._lost),
            dict(self._empty),
            dict(self._notes),
        )
        for split in SPLITS:
            if counts[split]:
                buffer = BytesIO()
                np.save(buffer, tokens[split], allow_pickle=False)
                write_atomic(piece.file(self._task.folder, split), buffer.getbuffer())
        write_atomic(piece.note(self._task.folder), json.dumps(piece.__dict__))
        return piece
