"""Token store: a corpus as token ids on disk, split into train, validation and test, opened as memory maps.

One folder per corpus, tokenizer and split under `DataConfig.cache`: shards `train-00000.npy`, `validation-00000.npy` and so on (one
dimension, uint16 or uint32; a small corpus has one a split), `tokenizer.json`, `store.json`, `manifest.json`. Documents follow one
another in the order of the corpus, for a folder that of their paths, each ended by the separator token (the byte NUL, or the
tokenizer's end-of-text token). While it is built its pieces lie in a hidden folder beside it, and an interrupted build goes on there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hushlm.config import DataConfig
from hushlm.data.corpus import Corpus, open_corpus
from hushlm.data.shards import SPLITS, Piece, Tokens, build_pieces, open_shards, split_of
from hushlm.data.tokenizer import Tokenizer, file_key, make_tokenizer, separator_id, tokenizer_file
from hushlm.files import new_folder, verify_manifest, write_atomic

__all__ = ["SPLITS", "TokenStore", "Tokens", "open_token_store", "split_of"]

Progress = Callable[[int, int], None]

_FORMAT = 2

TOKENIZER_BYTES = 500_000_000
"""Text of the training split, from its start, that a tokenizer is trained on at most."""


@dataclass(frozen=True)
class TokenStore:
    """A tokenised corpus.

    Attributes:
        tokens: token ids of "train", "validation" and "test", read-only memory maps of one dimension,
            or `ShardedTokens` over several.
        tokenizer: text to ids and back.
        vocabulary: V.
        fingerprint: sha256 over corpus, tokenizer and split, hexadecimal; equal fingerprints mean equal tokens.
        corpus_name: for reports.
        documents: files in the corpus.
        bytes: size of their text.
        split_bytes: the same for each split; nats per token times tokens over this is nats per byte.
        skipped: files left out because they are not UTF-8.
        folder: where the store lies.
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


def open_token_store(config: DataConfig, progress: Progress | None = None) -> TokenStore:
    """Open the token store of a corpus and tokenizer; build it if there is none.

    The corpus is read and hashed every time, so a changed file leads to a new store and never to stale tokens. The folder
    appears in one step, whole; processes that build the same store at once do not disturb one another.

    Args:
        config: corpus, tokenizer, split and cache folder.
        progress: called with (documents done, documents) while a store is being built.

    Raises:
        ValueError: one sentence: no such corpus or tokenizer, a split without documents, or a store that was damaged.
    """
    ready = tokenizer_file(config.tokenizer)
    corpus = open_corpus(config)
    kind = file_key(ready) if ready else config.tokenizer
    key = hashlib.sha256(json.dumps([_FORMAT, corpus.sha256, kind, config.validation_share]).encode()).hexdigest()
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{corpus.label}-{'file' if ready else config.tokenizer}").strip("-")
    folder = config.cache / f"{label}-{key[:16]}"
    if not folder.exists():
        _build(folder, corpus, config, progress)
    return _open(folder)


def _open(folder: Path) -> TokenStore:
    try:
        verify_manifest(folder)
    except ValueError as error:
        raise ValueError(f"The token store is unusable ({str(error).rstrip('.')}): delete {folder} and it will be built again.") from None
    facts = json.loads((folder / "store.json").read_bytes())
    return TokenStore(
        tokens={split: open_shards([folder / _shard(split, i) for i in range(facts["splits"][split]["shards"])]) for split in SPLITS},
        tokenizer=Tokenizer.from_file(folder / "tokenizer.json"),
        vocabulary=facts["vocabulary"],
        fingerprint=facts["fingerprint"],
        corpus_name=facts["corpus"],
        documents=facts["documents"],
        bytes=facts["bytes"],
        split_bytes={split: facts["splits"][split]["bytes"] for split in SPLITS},
        skipped=facts["skipped"],
        folder=folder,
    )


def _build(folder: Path, corpus: Corpus, config: DataConfig, progress: Progress | None) -> None:
    if corpus.documents:  # known before anything is read
        _refuse_empty_splits(corpus.name, [split_of(document.path, config.validation_share) for document in corpus.documents])
    with _workshop(folder) as pieces_folder:
        if folder.exists():  # another process was first
            return
        # With the tokenizer made once, a resumed build need not train it again.
        kept = pieces_folder / "tokenizer.json"
        if not kept.is_file():
            write_atomic(kept, make_tokenizer(config.tokenizer, _training_texts(corpus, config.validation_share)).to_str())
        tokenizer = Tokenizer.from_file(kept)
        # The largest id decides: a ready vocabulary may have gaps.
        vocabulary, separator = tokenizer.vocabulary, separator_id(tokenizer)
        kind = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        pieces: list[Piece] = []
        done = 0
        for made in build_pieces(corpus.parts, pieces_folder, tokenizer, separator, kind, config.validation_share, config.workers):
            pieces += made
            done += sum(sum(piece.documents.values()) for piece in made)
            if progress is not None:
                progress(done, max(done, len(corpus.documents)))
        documents = {split: sum(piece.documents[split] for piece in pieces) for split in SPLITS}
        _refuse_empty_splits(corpus.name, [split for split in SPLITS if documents[split]], sum(documents.values()))
        with new_folder(folder, replace=False) as temporary:
            _put_together(temporary, pieces_folder, pieces, corpus, config, tokenizer, vocabulary, separator)


def _put_together(
    folder: Path,
    pieces_folder: Path,
    pieces: list[Piece],
    corpus: Corpus,
    config: DataConfig,
    tokenizer: Tokenizer,
    vocabulary: int,
    separator: int,
) -> None:
    splits = {}
    for split in SPLITS:
        shards = [piece.file(pieces_folder, split) for piece in pieces if piece.tokens[split]]
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
    text = tokenizer.to_str()
    about = {
        "format": _FORMAT,
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "fingerprint": hashlib.sha256(json.dumps([corpus.sha256, text, config.validation_share]).encode()).hexdigest(),
        "tokenizer": config.tokenizer,
        "vocabulary": vocabulary,
        "separator": separator,
        "documents": sum(facts["documents"] for facts in splits.values()),
        "bytes": sum(facts["bytes"] for facts in splits.values()),
        "skipped": corpus.skipped + sum(piece.skipped for piece in pieces),
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


def _training_texts(corpus: Corpus, validation_share: float) -> Iterator[str]:
    size = 0
    for identifier, text in corpus.texts():
        if text and split_of(identifier, validation_share) == "train":
            yield text
            size += len(text)
            if size >= TOKENIZER_BYTES:
                return


def _refuse_empty_splits(name: str, found: list[str], count: int | None = None) -> None:
    for split in SPLITS:
        if split not in found:
            raise ValueError(
                f"{name} has {len(found) if count is None else count} texts, and none of them falls into the {split} split: "
                "cut the text into more files, or raise data.validation_share."
            )


def _shard(split: str, index: int) -> str:
    return f"{split}-{index:05d}.npy"
