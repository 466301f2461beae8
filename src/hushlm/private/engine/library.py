"""The library for multi-party computation: SecretFlow-SPU with the protocol Cheetah.

It is imported when it is first needed, and nothing outside this folder imports it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["engine_version", "load_engine"]


def load_engine() -> tuple[Any, Any]:
    """The engine's package and its native library.

    Raises:
        ValueError: in one sentence, where the engine is not installed.
    """
    try:
        import spu
        from spu import libspu
    except ImportError as error:
        raise ValueError(f"Private inference needs the two-party engine: pip install 'hushlm[private]' ({error}).") from error
    return spu, libspu


def engine_version() -> str:
    """The engine's protocol, name and version, e.g. "Cheetah (SPU 0.9.5)"."""
    from importlib.metadata import version

    load_engine()
    return f"Cheetah (SPU {version('spu')})"
