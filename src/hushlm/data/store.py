"""Token store: a corpus as token ids on disk, split into train, validation and test, opened as memory maps.

One folder per corpus, tokenizer and split under `DataConfig.cache`: shards `train-00000.npy`, `validation-00000.npy` and so on (one
dimension, uint16 or uint32; a small corpus has one a split), `tokenizer.json`, `store.json`, `manifest.json`. Documents follow one
another in the order of the corpus, for a folder that of their paths, each ended by the separator token (the byte NUL, or the
tokenizer's end-of-text token). While it is built its pieces lie in a hidden folder beside it, and an interrupted build goes on there.

Whole documents go to a split, chosen by their names. Only where that leaves a split without any, as in a corpus of one file, is the
text split by position instead: its beginning is trained on, and its end held out.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hushlm.config import DataConfig
from hushlm.data.corpus import Corpus, open_corpus
from hushlm.data.parts import FilesPart, Part
from hushlm.data.report import CorpusReport, counted
from hushlm.data.rows import RowsPart
from hushlm.data.shards import Piece, Tokens, build_pieces, open_shards
from hushlm.data.splits import SPLITS, cut_by_position, ends_by_position, split_of
from hushlm.data.tokenizer import Tokenizer, is_text, separator_id
from hushlm.data.tokenizer_choice import file_key, make_tokenizer, tokenizer_file
from hushlm.files import new_folder, read_json, verify_manifest, write_atomic

__all__ = ["SPLITS", "TokenStore", "Tokens", "open_token_store", "split_of"]

Progress = Callable[[int, int], None]

_FORMAT = 2

TOKENIZER_BYTES = 500_000_000
"""How much text of the training split, from its start, a tokenizer is trained on at most."""


@dataclass(frozen=True)
class TokenStore:
    """A tokenised corpus.

    Attributes:
        tokens: token ids of "train", "validation" and "test", read-only memory maps of one dimension,
            or `ShardedTokens` over several.
        tokenizer: text to ids and back.
        vocabulary: V, one more than the largest token id.
        fingerprint: sha256 over corpus, tokenizer and split, hexadecimal; equal fingerprints mean equal tokens.
        corpus_name: what reports call the corpus.
        documents: how many documents the corpus has.
        bytes: how much text they hold.
        split_bytes: the same for each split; nats per token times tokens over this is nats per byte.
        skipped: how many documents were left out because they are not UTF-8 text.
        folder: where the store lies.
        report: what the corpus gave, and what was left out of it.
    """

    tokens: dict[str, Tokens]
    tokenizer: Tokenizer
    vocabulary: int
    fingerprint: str
    corpus_name: str
    documents: int
    bytes: int
    split_bytes: dict[str, int]
    skipped: int
    folder: Path
    report: CorpusReport


def open_token_store(config: DataConfig, progress: Progress | None = None, on_bytes: Callable[[int], None] | None = None) -> TokenStore:
    """Open the token store of a corpus and tokenizer; build it if there is none.

    The corpus is read and hashed every time, so a changed file leads to a new store and never to stale tokens. The folder
    appears in one step, whole; processes that build the same store at once do not disturb one another.

    Args:
        config: corpus, tokenizer, split and cache folder.
        progress: called with (documents done, documents) while a store is being built.
        on_bytes: called with the number of bytes of text just turned into tokens.

    Raises:
        ValueError: one sentence: no such corpus or tokenizer, too little text for three splits, or a store that was damaged.
    """
    ready = tokenizer_file(config.tokenizer)
    kind = file_key(ready) if ready else config.tokenizer
    corpus = open_corpus(config)
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{corpus.label}-{'file' if ready else config.tokenizer}").strip("-")

    def folder_of(*facts: object) -> Path:
        key = hashlib.sha256(json.dumps([_FORMAT, corpus.sha256, kind, config.validation_share, *facts]).encode()).hexdigest()
        return config.cache / f"{label}-{key[:16]}"

    folder = folder_of()
    if folder.exists():
        store = _open(folder, corpus)
        if not _lacks_rows(store, corpus):
            return store
        folder = folder_of("second reading of rows")
        if folder.exists():
            return _open(folder, corpus)
    _build(folder, corpus, config, progress, on_bytes)
    return _open(folder, corpus)


def _lacks_rows(store: TokenStore, corpus: Corpus) -> bool:
    """Whether a store was made when rows were left out that are read by now: without a text in the first column, or of bytes."""
    facts = read_json(store.folder / "store.json")
    return "lost" not in facts and facts["skipped"] > 0 and any(isinstance(part, RowsPart) for part in corpus.parts)


def _open(folder: Path, corpus: Corpus) -> TokenStore:
    try:
        verify_manifest(folder)
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    except ValueError as error:
        raise ValueError(f"The token store is unusable ({str(error).rstrip('.')}): delete {folder} and it will be built again.") from None
    facts = read_json(folder / "store.json")
    before = {"not UTF-8 text": facts["skipped"] - corpus.skipped} if facts["skipped"] > corpus.skipped else {}
    report = CorpusReport(
        name=facts["corpus"],
        documents=facts["documents"],
        bytes=facts["bytes"],
        tokens={split: facts["splits"][split]["tokens"] for split in SPLITS},
        lost=Counter(corpus.lost) + Counter(facts.get("lost", before)),
        empty=Counter(corpus.empty) + Counter(facts.get("empty", {})),
        notes=facts.get("notes", {}),
        not_read=corpus.not_read,
        by_position=facts.get("by_position", False),
    )
    return TokenStore(
        tokens={split: open_shards([folder / _shard(split, i) for i in range(facts["splits"][split]["shards"])]) for split in SPLITS},
        tokenizer=tokenizer,
        vocabulary=facts["vocabulary"],
        fingerprint=facts["fingerprint"],
        corpus_name=facts["corpus"],
        documents=facts["documents"],
        bytes=facts["bytes"],
        split_bytes={split: facts["splits"][split]["bytes"] for split in SPLITS},
        skipped=facts["skipped"],
        folder=folder,
        report=report,
    )


@dataclass(frozen=True)
class _Made:
    """What is about to become a store.

    Attributes:
        place: where its pieces lie.
        ends: where the splits end, if they are chosen by position.
    """

    place: Path
    pieces: list[Piece]
    tokenizer: Tokenizer
    ends: tuple[int, int] | None

    @property
    def missing(self) -> list[str]:
        """Splits without text."""
        return [split for split in SPLITS if not any(piece.tokens[split] for piece in self.pieces)]


def _build(folder: Path, corpus: Corpus, config: DataConfig, progress: Progress | None, on_bytes: Callable[[int], None] | None) -> None:
    ends = None
    sizes: list[int] = []
    if corpus.documents:  # known before anything is read
        found = {split_of(document.path, config.validation_share) for document in corpus.documents}
        sizes = [sum(document.bytes for document in part.documents) for part in corpus.parts if isinstance(part, FilesPart)]
        ends = None if len(found) == len(SPLITS) else _ends(corpus.name, corpus.bytes, len(corpus.documents), config)
    with _workshop(folder) as place:
        if folder.exists():  # another process was first
            return
        made = _make(place, corpus, config, ends, sizes, progress, on_bytes)
        if made.missing and ends is None:
            sizes = [sum(sum(piece.bytes.values()) for piece in made.pieces if piece.part == index) for index in range(len(corpus.parts))]
            documents = sum(sum(piece.documents.values()) for piece in made.pieces)
            if not documents:
                raise ValueError(f"{corpus.name} holds no text: {counted(_total(made.pieces, 'lost') + _total(made.pieces, 'empty'))}.")
            ends = _ends(corpus.name, sum(sizes), documents, config)
            made = _make(place / "by-position", corpus, config, ends, sizes, progress, on_bytes)
        with new_folder(folder, replace=False) as temporary:
            _put_together(temporary, made, corpus, config)


def _make(
    place: Path,
    corpus: Corpus,
    config: DataConfig,
    ends: tuple[int, int] | None,
    sizes: list[int],
    progress: Progress | None,
    on_bytes: Callable[[int], None] | None,
) -> _Made:
    # With the tokenizer made once, a resumed build need not train it again.
    kept = place / "tokenizer.json"
    if not kept.is_file():
        write_atomic(kept, make_tokenizer(config.tokenizer, _training_texts(corpus.parts, config.validation_share, ends)).to_str())
    tokenizer = Tokenizer.from_file(kept)
    # The largest id decides: a ready vocabulary may have gaps.
    kind = np.dtype(np.uint16 if tokenizer.vocabulary <= 2**16 else np.uint32)
    pieces: list[Piece] = []
    done = 0
    for piece in build_pieces(
        corpus.parts,
        place,
        tokenizer,
        separator_id(tokenizer),
        kind,
        config.validation_share,
        config.workers,
        ends=ends,
        part_bytes=sizes,
        on_bytes=on_bytes,
    ):
        pieces.append(piece)
        done += sum(piece.documents.values())
        if progress is not None:
            progress(done, max(done, len(corpus.documents)))
    return _Made(place, pieces, tokenizer, ends)


def _total(pieces: list[Piece], name: str) -> Counter[str]:
    return sum((Counter(getattr(piece, name)) for piece in pieces), Counter())


def _put_together(folder: Path, made: _Made, corpus: Corpus, config: DataConfig) -> None:
    splits, pieces = {}, made.pieces
    for split in SPLITS:
        shards = [piece.file(made.place, split) for piece in pieces if piece.tokens[split]]
        for index, shard in enumerate(shards):
            try:
                os.link(shard, folder / _shard(split, index))
            except OSError:  # a file system without hard links
                shutil.copyfile(shard, folder / _shard(split, index))
        splits[split] = {
            "documents": sum(piece.documents[split] for piece in pieces),
            "bytes": sum(piece.bytes[split] for piece in pieces),
            "tokens": sum(piece.tokens[split] for piece in pieces),
            "shards": len(shards),
        }
    text = made.tokenizer.to_str()
    notes = _total(pieces, "notes")
    # Texts that earlier versions left out make other tokens of the same corpus.
    identity = [corpus.sha256, text, config.validation_share, *([dict(notes)] if notes else [])]
    about = {
        "format": _FORMAT,
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "fingerprint": hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        "tokenizer": config.tokenizer,
        "vocabulary": made.tokenizer.vocabulary,
        "separator": separator_id(made.tokenizer),
        "documents": sum(facts["documents"] for facts in splits.values()),
        "bytes": sum(facts["bytes"] for facts in splits.values()),
        "skipped": corpus.skipped + sum(piece.skipped for piece in pieces),
        "lost": dict(_total(pieces, "lost")),
        "empty": dict(_total(pieces, "empty")),
        "notes": dict(notes),
        "by_position": made.ends is not None,
        "splits": splits,
    }
    write_atomic(folder / "tokenizer.json", text)
    write_atomic(folder / "store.json", json.dumps(about, indent=1) + "\n")


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A folder for the pieces of a store, one process at a time; it goes away with the store done, or with nothing made."""
    place = folder.absolute().with_name(f".{folder.name}.building")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.mkdir(exist_ok=True)  # the process before us may have cleared it away
        try:
            yield place
        finally:
            if folder.exists() or not any(place.glob("*-*.json")):
                shutil.rmtree(place, ignore_errors=True)


def _training_texts(parts: Sequence[Part], validation_share: float, ends: tuple[int, int] | None) -> Iterator[str]:
    size = at = 0
    for identifier, text in (found for part in parts for found in part.texts()):
        if not isinstance(text, str) or not text or not is_text(text):
            continue
        if ends is not None:
            cut, at = cut_by_position(text, at, ends), at + len(text.encode())
            text = "".join(head for split, head in cut if split == "train")
        elif split_of(identifier, validation_share) != "train":
            continue
        if text:
            yield text
        size += len(text)
        if size >= TOKENIZER_BYTES:
            return


def _ends(name: str, total_bytes: int, documents: int, config: DataConfig) -> tuple[int, int]:
    """Raises: ValueError if there is too little text."""
    ends = ends_by_position(total_bytes, config.validation_share)
    if ends is None:
        raise ValueError(
            f"{name} has {documents} texts of {total_bytes} bytes together, too little to hold {config.validation_share:.0%} of them out "
            "twice: add text, cut the text into more files, or raise data.validation_share."
        )
    return ends


def _shard(split: str, index: int) -> str:
    return f"{split}-{index:05d}.npy"
