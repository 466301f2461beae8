"""The repository as a newcomer meets it: the README's file tree is true, and no file knows the machine it was written on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BRANCH = re.compile(r"^(?P<indent>(?:│   |    )*)(?:├── |└── )(?P<name>\S+)")


def tracked() -> list[str]:
    """Files under version control, and new ones that will be."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is not a git checkout, so there is no list of the repository's files")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def drawn_tree(text: str) -> dict[str, str]:
    """Path to phrase, of a tree drawn with branches; a folder's name ends in a slash."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in text.splitlines():
        if match := BRANCH.match(line):
            depth = len(match["indent"]) // 4
            del parents[depth:]
            parents.append(match["name"].rstrip("/"))
            slash = "/" if match["name"].endswith("/") else ""
            found["/".join(parents) + slash] = line[match.end() :].strip()
    return found


def test_the_parser_of_trees() -> None:
    text = "x/\n├── a.py          one\n├── b/   two\n│   ├── c.py  three\n│   └── d/\n│       └── e.py  four\n└── f.py  five\n"
    assert drawn_tree(text) == {"a.py": "one", "b/": "two", "b/c.py": "three", "b/d/": "", "b/d/e.py": "four", "f.py": "five"}


def test_the_readmes_file_tree_is_the_repositorys() -> None:
    tree = drawn_tree((ROOT / "README.md").read_text())
    if not tree:
        pytest.skip("the README draws no file tree yet")
    files = tracked()
    folders = {"/".join(name.split("/")[:depth]) + "/" for name in files for depth in range(1, name.count("/") + 1)}
    unknown = [path for path in tree if path not in files and path not in folders]
    assert not unknown, f"the README names what is not there: {unknown}"
    # A folder drawn without its files stands for all of them.
    closed = [path for path in tree if path.endswith("/") and not any(other != path and other.startswith(path) for other in tree)]
    missing = [
        name
        for name in files
        if name.startswith("src/")
        and not name.endswith(("__init__.py", "__init__.pyi", "py.typed"))
        and name not in tree
        and not name.startswith(tuple(closed))
    ]
    assert not missing, f"the README's tree leaves out {missing}"


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    machine = {str(ROOT), f"{Path.home()}/", f"{sys.base_prefix}/"} - {"//", "/usr/", "/usr/local/"}
    found = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        found += [f"{name} contains {place}" for place in machine if place.encode() in content]
    assert not found
