from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """No progress bars among the output of tests."""
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    transformers.utils.logging.disable_progress_bar()
