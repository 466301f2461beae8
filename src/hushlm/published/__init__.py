"""The paper's figures as data. SOURCE.md, beside this file, says where each one comes from and in which unit it is."""

from __future__ import annotations

import csv
from importlib.resources import files

__all__ = ["read_published"]


def read_published(name: str) -> list[dict[str, str]]:
    """The rows of one of the CSV files in this folder, as text by the name of their column, in the file's order."""
    return list(csv.DictReader((files(__name__) / name).read_text(encoding="utf-8").splitlines()))
