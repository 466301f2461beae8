"""Results as JSON documents in a repository: written whole, refused in one sentence where they are something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hushlm.files import write_atomic

__all__ = ["read_document", "write_document"]


def write_document(document: Mapping[str, Any], path: Path) -> Path:
    """Write plain JSON values. NaN and infinity have no JSON form: use None for them. Returns: the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def read_document(path: Path, check: Callable[[Mapping[str, Any]], object], refusal: str) -> Mapping[str, Any]:
    """Read a document.

    Args:
        path: of the file.
        check: raises KeyError, TypeError or ValueError for what is not such a document.
        refusal: the sentence then, after the path.

    Raises:
        ValueError: the path and `refusal`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        check(document)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} {refusal}") from error
    return document
