"""Token store: a corpus as token ids on disk, split into train, validation and test, opened as memory maps.

One folder per corpus, tokenizer and split under `DataConfig.cache`: `train.npy`, `validation.npy`, `test.npy` (one
dimension, uint16 or uint32), `tokenizer.json`, `store.json`, `manifest.json`. Documents follow one another in the order of their
paths, each ended by the separator token (the byte NUL, or the tokenizer's end-of-text token).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from hushlm.config import DataConfig
from hushlm.data.corpus import Corpus, Document, open_corpus
from hushlm.data.tokenizer import make_tokenizer, separator_id, tokenizer_file
from hushlm.files import new_folder, verify_manifest, write_atomic

__all__ = ["SPLITS", "TokenStore", "Tokens", "open_token_store", "split_of"]

SPLITS = ("train", "validation", "test")
Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Progress = Callable[[int, int], None]

_FORMAT = 1
_CHUNK_BYTES = 1_000_000


@dataclass(frozen=True)
class TokenStore:
    """A tokenised corpus.

    Attributes:
        tokens: token ids of "train", "validation" and "test", read-only memory maps of one dimension.
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


def split_of(path: str, validation_share: float) -> str:
    """The split of a document: by a hash of its relative path alone, so adding or removing files moves no other file.

    With u the first 8 bytes of sha256(path) as a fraction: "validation" for u < share, "test" for share <= u < 2 share, else "train".
    """
    fraction = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    return "validation" if fraction < validation_share else "test" if fraction < 2 * validation_share else "train"


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
    kind = hashlib.sha256(ready.read_bytes()).hexdigest() if ready else config.tokenizer
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
        tokens={split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in SPLITS},
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
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
    members: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in corpus.documents:
        members[split_of(document.path, config.validation_share)].append(document)
    for split in SPLITS:
        if not members[split]:
            raise ValueError(
                f"{corpus.name} has {len(corpus.documents)} text files, and none of them falls into the {split} split: "
                "cut the text into more files, or raise data.validation_share."
            )
    tokenizer = make_tokenizer(config.tokenizer, (document.read() for document in members["train"]))
    # The largest id decides: a ready vocabulary may have gaps.
    vocabulary, separator = max(tokenizer.get_vocab().values()) + 1, separator_id(tokenizer)
    kind = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    done = 0
    facts = {}
    with new_folder(folder, replace=False) as temporary:
        for split in SPLITS:
            parts: list[npt.NDArray[np.unsignedinteger]] = []
            for chunk in _chunks(members[split]):
                # A post-processor's own special tokens are left out: documents are separated in one way only.
                for encoding in tokenizer.encode_batch_fast([document.read() for document in chunk], add_special_tokens=False):
                    parts += [np.array(encoding.ids, dtype=kind), np.array([separator], dtype=kind)]
                done += len(chunk)
                if progress is not None:
                    progress(done, len(corpus.documents))
            tokens = np.concatenate(parts)
            np.save(temporary / f"{split}.npy", tokens, allow_pickle=False)
            facts[split] = {
                "documents": len(members[split]),
                "bytes": sum(document.bytes for document in members[split]),
                "tokens": len(tokens),
            }
        text = tokenizer.to_str()
        fingerprint = hashlib.sha256(json.dumps([corpus.sha256, text, config.validation_share]).encode()).hexdigest()
        about = {
            "format": _FORMAT,
            "corpus": corpus.name,
            "corpus_sha256": corpus.sha256,
            "fingerprint": fingerprint,
            "tokenizer": config.tokenizer,
            "vocabulary": vocabulary,
            "separator": separator,
            "documents": len(corpus.documents),
            "bytes": corpus.bytes,
            "skipped": corpus.skipped,
            "splits": facts,
        }
        write_atomic(temporary / "tokenizer.json", text)
        write_atomic(temporary / "store.json", json.dumps(about, indent=1) + "\n")


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups of about a megabyte: enough for the tokenizer's threads, little memory."""
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += document.bytes
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
