"""Errors as one sentence: what was wrong and what to do. No traceback, no table, no type names of a library."""

from __future__ import annotations

import re
from typing import Any

from hushlm.extras import ENGINE_PACKAGES, engine_problem, extra_of

__all__ = ["sentence"]


def sentence(error: Exception) -> str | None:
    """The sentence for the user, or None if the error is not the user's to mend."""
    if isinstance(error, ModuleNotFoundError):
        return _missing((error.name or "").partition(".")[0])
    if isinstance(error, OSError):
        return _ended(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    if hasattr(error, "errors") and hasattr(error, "title"):
        return _ended(_validation(error))
    return _ended(_joined(str(error)))


def _missing(package: str) -> str | None:
    """What to install for a package of one of the extras; the engine's packages have limits of their own."""
    if package in ENGINE_PACKAGES and (problem := engine_problem()):
        return problem
    extra = "hf" if package == "huggingface_hub" else extra_of(package)  # transformers and datasets bring it
    return f"This needs {package}, which is not installed: pip install 'hushlm[{extra}]'." if extra else None


def _validation(error: Any) -> str:
    """pydantic's first error. Our own sentences come out as they are; others get the field's name and the value in front."""
    first = error.errors()[0]
    message = first["msg"]
    if first["type"] == "value_error":
        return _joined(message.removeprefix("Value error, "))
    where = ".".join(str(part) for part in first["loc"])
    return f"{where} = {first['input']!r}: {message[:1].lower()}{_joined(message[1:])}"


def _joined(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!", ")")) else text + "."
