"""Corpora: order, fingerprint, what is skipped, and what is said about a wrong folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hushlm.config import DataConfig
from hushlm.data import open_corpus


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> DataConfig:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return DataConfig(corpus=str(tmp_path))


def test_folder_is_sorted_and_filtered(tmp_path: Path) -> None:
    config = folder_of(
        tmp_path,
        {
            "b.txt": b"two",
            "a/z.md": b"one",
            "a.py": b"zero",
            "picture.png": b"x",
            "latin.txt": b"\xe9t\xe9",
            "empty.txt": b"",
            ".git/x.txt": b"no",
        },
    )
    corpus = open_corpus(config)
    assert [document.path for document in corpus.documents] == ["a.py", "a/z.md", "b.txt"]
    assert corpus.skipped == 1
    assert corpus.bytes == 10
    assert corpus.documents[1].read() == "one"


def test_fingerprint_follows_contents_and_names_only(tmp_path: Path) -> None:
    files = {"a.txt": b"one", "b.txt": b"two"}
    first = open_corpus(folder_of(tmp_path / "1", files)).sha256
    assert open_corpus(folder_of(tmp_path / "2", files)).sha256 == first
    assert open_corpus(folder_of(tmp_path / "3", {"a.txt": b"one", "b.txt": b"twO"})).sha256 != first
    assert open_corpus(folder_of(tmp_path / "4", {"a.txt": b"one", "c.txt": b"two"})).sha256 != first
    assert open_corpus(folder_of(tmp_path / "5", {"a.txt": b"onetwo", "b.txt": b""})).sha256 != first


def test_line_ends_are_kept(tmp_path: Path) -> None:
    corpus = open_corpus(folder_of(tmp_path, {"a.txt": "\ufeffa\r\nb\rc\n".encode()}))
    assert corpus.documents[0].read() == "\ufeffa\r\nb\rc\n"


def test_change_after_opening_is_noticed(tmp_path: Path) -> None:
    document = open_corpus(folder_of(tmp_path, {"a.txt": b"one"})).documents[0]
    document.file.write_bytes(b"One")
    with pytest.raises(ValueError, match="changed"):
        document.read()


@pytest.mark.parametrize(
    ("files", "words"), [({}, "no file ending"), ({"a.png": b"x"}, "no file ending"), ({"a.txt": b"\xff"}, "not UTF-8")]
)
def test_folder_without_text(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_corpus(folder_of(tmp_path, files))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        open_corpus(DataConfig(corpus=str(tmp_path / "nowhere")))


def test_standard_library() -> None:
    corpus = open_corpus(DataConfig())
    paths = {document.path for document in corpus.documents}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= paths
    assert corpus.bytes > 5_000_000
    parts = {part for path in paths for part in path.split("/")}
    assert not parts & {"test", "tests", "idle_test", "lib2to3", "site-packages", "pydoc_data", "encodings"}
