"""Result files: JSON documents in a folder of results, written whole, and refused in one sentence where they are something else.

An experiment of the paper is kept as NAME-PRESET.json, the contest as frontier-PRESET.json. Each holds enough to draw its page again
without any run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hushlm.files import write_atomic

__all__ = ["CONTEST", "document_stem", "read_document", "write_document"]

CONTEST = "frontier"
"""What the contest's files are called. Its documents have no `name` of their own."""


def document_stem(document: Mapping[str, Any]) -> str:
    """The name, without an ending, of a document's file and of the files of its page."""
    return f"{document.get('name', CONTEST)}-{document['preset']}"


def write_document(document: Mapping[str, Any], folder: Path) -> Path:
    """Write plain JSON values into a folder of results. NaN and infinity have no JSON form: use None for them.

    Returns: the file's path.
    """
    path = folder / f"{document_stem(document)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def read_document(path: Path, check: Callable[[Mapping[str, Any]], object], refusal: str) -> Mapping[str, Any]:
    """Read a document.

    Args:
        path: where the file is.
        check: a function that raises KeyError, TypeError or ValueError for what is not such a document.
        refusal: what to say of such a file, after its path.

    Raises:
        ValueError: with the path and `refusal`, if the file is not such a document.
        OSError: if the file cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        check(document)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} {refusal}") from error
    return document
