"""What is installed: the wheel holds the package with its data and nothing else, and a source distribution builds the same."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.cli.test_cli_repository import tracked

ROOT = Path(__file__).parents[2]
KERNEL = "hushlm/entropy/kernels/native/libhush_attention.so"

pytestmark = pytest.mark.slow


def built(kind: str, folder: Path) -> Path:
    """A wheel or an "sdist" of this tree, made by the back end that pyproject.toml names."""
    code = f"import sys, hatchling.build; hatchling.build.build_{kind}(sys.argv[1])"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def sources(below: str) -> set[str]:
    return {name.removeprefix("src/") for name in tracked() if name.startswith(below)}


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", tmp_path / "wheel")) as wheel:
        names = set(wheel.namelist())
    found = {name for name in names if ".dist-info/" not in name}
    expected = sources("src/hushlm/")
    assert found - {KERNEL} == expected
    assert {Path(name).suffix for name in expected} >= {".py", ".pyi", ".typed", ".json", ".csv", ".c", ".h"}
    information = {name.partition("/")[2] for name in names - found}
    assert information == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_the_source_distribution_builds_the_wheel_and_holds_no_leftovers(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path / "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO"} <= set(tracked())
    assert {f"src/{name}" for name in sources("src/hushlm/")} | {"pyproject.toml", "hatch_build.py", "README.md"} <= names
