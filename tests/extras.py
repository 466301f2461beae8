"""Skipping, with a reason, what needs an extra that is not installed."""

from __future__ import annotations

import pytest

from hushlm.extras import engine_problem, missing_packages


def need_extra(extra: str) -> None:
    """Skip the module, or the test, that calls this unless every package of an extra is there."""
    if missing := missing_packages(extra):
        pytest.skip(f"the extra {extra} is not installed: {', '.join(missing)}", allow_module_level=True)


def need_engine() -> None:
    """The same for the two-party engine and all that private inference needs beside it."""
    need_extra("private")
    if problem := engine_problem():
        pytest.skip(problem, allow_module_level=True)
