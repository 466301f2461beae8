"""The library for multi-party computation: SecretFlow-SPU with the protocol Cheetah.

It is imported when it is first needed, and nothing outside this folder imports it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hushlm.extras import require_engine

__all__ = ["engine_version", "load_engine"]


@cache  # looking up what is installed takes milliseconds, and every program of an answer asks
def load_engine() -> tuple[Any, Any]:
    """The engine's package and its native library.

    Raises:
        ValueError: if the engine cannot run here, with the cause and what to do in one sentence: Python is too new, numpy is too new,
            the engine is not installed, or it is installed but cannot be loaded.
    """
    require_engine()
    try:
        import spu
        from spu import libspu
    except ImportError as error:
        raise ValueError(
            f"The two-party engine is installed but cannot be loaded ({error}): pip install 'hushlm[private]' again."
        ) from error
    return spu, libspu


def engine_version() -> str:
    """The engine's protocol, name and version, e.g. "Cheetah (SPU 0.9.5)"."""
    from importlib.metadata import version

    load_engine()
    return f"Cheetah (SPU {version('spu')})"
