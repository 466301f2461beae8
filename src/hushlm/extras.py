"""What is installed beside the core: the optional extras of the package, and the two-party engine with its limits.

Standard library only. Nothing is imported to find out: a package is looked up by its name and its version is read from its metadata.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["ENGINE_PACKAGES", "EXTRAS", "engine_problem", "extra_of", "installed_version", "missing_packages", "require_engine"]

ENGINE_PACKAGES = ("spu", "jax", "jaxlib")
"""The two-party engine and the compiler in front of it."""

EXTRAS: dict[str, tuple[str, ...]] = {
    "private": (*ENGINE_PACKAGES, "cryptography", "scipy", "starlette", "uvicorn", "httpx", "jinja2", "prometheus_client", "structlog"),
    "hf": ("transformers", "datasets", "pyarrow", "accelerate", "gguf"),
    "report": ("plotly", "jinja2"),
    "tracking": ("tensorboard",),
    "cluster": ("ray",),
    "frontier": ("optuna",),
}
"""Each extra of pyproject.toml, and the packages it brings under the names by which Python imports them."""

_ENGINE_PYTHON = (3, 11)
"""The newest Python for which the engine is published."""

_THIS_PYTHON = sys.version_info[:2]


def extra_of(package: str) -> str | None:
    """The extra that brings a package, given by its import name; None if no extra does."""
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def missing_packages(extra: str) -> tuple[str, ...]:
    """The packages of an extra that are not installed, in the order of `EXTRAS`."""
    return tuple(package for package in EXTRAS[extra] if not _is_installed(package))


def installed_version(package: str) -> str | None:
    """The version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def engine_problem() -> str | None:
    """Why the two-party engine cannot run here and what to do about it, in one sentence; None if it can."""
    if _THIS_PYTHON > _ENGINE_PYTHON:
        wanted, found = (".".join(map(str, pair)) for pair in (_ENGINE_PYTHON, _THIS_PYTHON))
        return (
            f"The two-party engine needs Python {wanted}, but this is Python {found}: "
            f"make an environment with Python {wanted} and run pip install 'hushlm[private]' there."
        )
    if absent := [package for package in ENGINE_PACKAGES if not _is_installed(package)]:
        return f"Private inference needs the two-party engine, but {absent[0]} is not installed: pip install 'hushlm[private]'."
    numpy = installed_version("numpy")
    if numpy is not None and int(numpy.partition(".")[0]) >= 2:
        return f"The two-party engine needs numpy 1, but numpy {numpy} is installed: pip install 'hushlm[private]'."
    return None


def require_engine() -> None:
    """Called before anything that only the engine can finish, so that what is missing is said before files are read and ports opened.

    Raises:
        ValueError: with the sentence of `engine_problem`.
    """
    if problem := engine_problem():
        raise ValueError(problem)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a finder that refuses the package, or a module without a specification
        return False
