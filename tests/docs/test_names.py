"""What the documents name exists: files, tests, Python names, and in the recipes the identifiers of each step's files."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))],
)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?<![\w/.-])((?:src|tests|benchmarks|docs|examples|results)/[\w./-]*[\w/-])")
TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py")
TEST_NAME = re.compile(r"(?<![\w/])test_\w+(?!\w*\.py)")
DOTTED = re.compile(r"(?<![\w./-])hushlm(?:\.\w+)+(?![\w/*])")
IDENTIFIER = re.compile(r"_?[A-Za-z]\w*")
TEXT = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
RECIPES = ("docs/architecture/add-an-ffn.md", "docs/architecture/add-an-operation.md")


def code(text: str) -> str:
    """What stands between backticks, and in fenced blocks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*CODE.findall(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)), *fenced])


@pytest.mark.parametrize("page", TEXT)
def test_files_exist(page: str) -> None:
    named = set(PATH.findall(code(TEXT[page])))
    # `experiments.py` of a folder that a reader makes, such as examples of an export, is not among these prefixes.
    missing = sorted(path for path in named if not (ROOT / path).exists() and not list((ROOT / path).parent.glob(f"{Path(path).name}.*")))
    assert not missing


@pytest.mark.parametrize("page", TEXT)
def test_tests_exist(page: str) -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    everything = "\n".join(sources.values())
    named = code(TEXT[page])
    assert not sorted(name for name in set(TEST_FILE.findall(named)) if name not in sources)
    functions = set(TEST_NAME.findall(TEST_FILE.sub("", named))) - {"test_perplexity"}  # a key of the demo's summary
    assert not sorted(name for name in functions if not re.search(rf"\bdef {name}\b", everything))


@pytest.mark.parametrize("page", TEXT)
def test_python_names_exist(page: str) -> None:
    missing = []
    for name in sorted(set(DOTTED.findall(code(TEXT[page])))):
        parts = name.split(".")
        if parts[-1] in ("service", "yaml"):
            continue
        try:
            if importlib.util.find_spec(name) is not None:
                continue
        except ModuleNotFoundError:
            pass
        found: object
        try:
            found = importlib.import_module(".".join(parts[:-1]))
        except ModuleNotFoundError:
            found = importlib.import_module(".".join(parts[:-2]))
            found = getattr(found, parts[-2], None)
        if not hasattr(found, parts[-1]):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", RECIPES)
def test_each_step_of_a_recipe_names_what_its_files_hold(page: str) -> None:
    steps = re.findall(r"^\d+\. \*\*.*?(?=^\d+\. |^#|\Z)", TEXT[page], re.MULTILINE | re.DOTALL)
    assert len(steps) >= 6
    for step in steps:
        files = PATH.findall(code(step))
        assert files, f"no file in: {step}"
        content = "\n".join((ROOT / path).read_text() for path in files)
        words = [word for word in CODE.findall(step) if IDENTIFIER.fullmatch(word) and word not in ("mypy", "numpy", "jax")]
        assert not [word for word in words if not re.search(rf"\b{word}\b", content)], step
