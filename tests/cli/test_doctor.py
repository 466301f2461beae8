"""`hushlm doctor`, and commands without what they need: one sentence with what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from hushlm import extras
from hushlm.cli.main import main
from hushlm.entropy.kernels import library

BLOCKED = """
import sys

class Blocker:
    \"""Finds the named packages before anybody else does, and says that they are not there.\"""
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from hushlm.cli.main import main
sys.exit(main({words!r}))
"""


def without(packages: set[str], *words: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in a process in which these packages cannot be imported."""
    command = [sys.executable, "-c", BLOCKED.format(packages=packages, words=list(words))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    return done.returncode, done.stdout, done.stderr


def findings(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, Any]]:
    """The rows of `hushlm doctor --json` by name."""
    assert main(["doctor", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["core_works"] == (code == 0)
    return {row["name"]: row for row in document["findings"]}


def test_the_doctor_reports_this_installation(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)
    assert found["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    for package in ("torch", "numpy"):
        assert found[package]["found"].partition("+")[0] == version(package).partition("+")[0]
        assert found[package]["works"]
    assert found["attention kernel"]["works"] == library.available()
    assert found["two-party engine"]["works"] == (extras.engine_problem() is None)
    for extra in extras.EXTRAS:
        assert f"extra {extra}" in found
    for row in found.values():
        assert bool(row["advice"]) != row["works"], "what does not work comes with advice, and nothing else does"
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in found)
    assert "Training and analysis work." in table


def test_a_missing_kernel_and_compiler_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = findings(capsys)
    assert not found["attention kernel"]["works"]
    assert "installed without a C compiler, so install one and then the package again" in found["attention kernel"]["advice"]
    assert not found["C compiler"]["works"]


@pytest.mark.parametrize(
    ("python", "numpy", "absent", "said"),
    [
        ((3, 13), "2.4.6", "", "needs Python 3.11, but this is Python 3.13"),
        ((3, 12), "1.26.4", "spu", "needs Python 3.11, but this is Python 3.12"),
        ((3, 11), "1.26.4", "jax", "jax is not installed: pip install 'hushlm[private]'"),
        ((3, 11), "2.4.6", "spu", "spu is not installed: pip install 'hushlm[private]'"),
        ((3, 11), "2.4.6", "", "needs numpy 1, but numpy 2.4.6 is installed"),
    ],
)
def test_why_there_is_no_engine(
    python: tuple[int, int], numpy: str, absent: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "_THIS_PYTHON", python)
    monkeypatch.setattr(extras, "installed_version", lambda package: numpy)
    monkeypatch.setattr(extras, "_is_installed", lambda package: package != absent)
    problem = extras.engine_problem()
    assert problem is not None
    assert said in problem
    assert problem.endswith(".")
    for words in (["serve", "export", "--keys", "keys"], ["ask", "a prompt", "--model", "export", "--keys", "keys"]):
        assert main(words) == 2
        assert capsys.readouterr().err == f"hushlm: {problem}\n"


def test_the_engine_runs_where_its_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_THIS_PYTHON", (3, 11))
    monkeypatch.setattr(extras, "installed_version", lambda package: "1.26.4")
    monkeypatch.setattr(extras, "_is_installed", lambda package: True)
    assert extras.engine_problem() is None


def test_a_core_that_cannot_be_imported_is_found(tmp_path: Path) -> None:
    code, out, err = without({"torch"}, "doctor", "--json", folder=tmp_path)
    assert (code, err) == (1, "")
    document = json.loads(out)
    assert not document["core_works"]
    (torch,) = (row for row in document["findings"] if row["name"] == "torch")
    assert "cannot be imported" in torch["advice"]


WITHOUT_EXTRA = {
    "frontier run": (["frontier", "run", "--preset", "micro", "--stage", "search", "--trials", "1"], "optuna", "frontier"),
    "reproduce on Ray": (["reproduce", "table2", "--preset", "micro", "--launcher", "ray"], "ray", "cluster"),
    "cost --calibrate": (["cost", "--calibrate"], "spu", "private"),
    "codeparrot": (["train", "--data.corpus", "codeparrot", "--output", "out"], "datasets", "hf"),
    "keys": (["keys", "create", "keys", "--host", "localhost"], "cryptography", "private"),
    "serve": (["serve", "export", "--keys", "keys"], "jax", "private"),
    "proxy": (["proxy", "--model", "export", "--keys", "keys"], "spu", "private"),
    "demo": (["demo", "--output", "demo"], "spu", "private"),
    "entropy": (["entropy", "model.gguf", "--text", "text.txt"], "transformers", "hf"),
    "report": (["report", "run"], "plotly", "report"),
    "tracking": (["train", "--training.track", "tensorboard", "--output", "out"], "tensorboard", "tracking"),
}


@pytest.mark.parametrize("name", WITHOUT_EXTRA)
def test_without_its_extra_a_command_says_what_to_install(name: str, tmp_path: Path) -> None:
    words, package, extra = WITHOUT_EXTRA[name]
    if missing := extras.missing_packages(extra):
        pytest.skip(f"the extra {extra} is not installed whole: {', '.join(missing)} would be named first")
    (tmp_path / "text.txt").write_text("some text")
    code, out, err = without({package}, *words, folder=tmp_path)
    assert code == 2, (out, err)
    last = err.splitlines()[-1]
    assert last.startswith("hushlm: ")
    assert "Traceback" not in err
    assert package in last
    assert f"pip install 'hushlm[{extra}]'" in last


def test_every_extra_of_the_package_is_known() -> None:
    """`hushlm.extras` and pyproject.toml name the same extras and the same packages."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    assert set(extras.EXTRAS) == set(declared) - {"dev", "docs", "test"}  # those are for work on the repository
    for extra, packages in extras.EXTRAS.items():
        named = {_distribution(line) for line in declared[extra]} - {"numpy"}  # a limit, not a package that the extra brings
        assert {package.replace("-", "_") for package in named} == set(packages)


def _distribution(requirement: str) -> str:
    return requirement.partition(";")[0].split("[")[0].split("=")[0].split("<")[0].split(">")[0].strip()
