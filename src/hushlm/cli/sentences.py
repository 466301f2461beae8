"""Errors as one sentence: what was wrong and what to do. No traceback, no table, no type names of a library."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["sentence"]

_EXTRAS = {
    **dict.fromkeys(("spu", "jax", "jaxlib", "cryptography", "starlette", "uvicorn", "httpx", "prometheus_client", "structlog"), "private"),
    **dict.fromkeys(("transformers", "datasets", "huggingface_hub"), "hf"),
}
"""Package to the extra of ours that brings it."""


def sentence(error: Exception) -> str | None:
    """The sentence for the user, or None if the error is not the user's to mend."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(package)
        return f"This needs {package}, which is not installed: pip install 'hushlm[{extra}]'." if extra else None
    if isinstance(error, OSError):
        return _ended(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    if hasattr(error, "errors") and hasattr(error, "title"):
        return _ended(_validation(error))
    return _ended(_joined(str(error)))


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
