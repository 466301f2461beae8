"""What can be wrong with stored material, each told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hushlm.files import what_to_do

__all__ = ["BundleError", "BundleStoreError", "told_in_a_sentence"]


class BundleError(ValueError):
    """One prepared answer cannot be used: it is not there, was used before, is damaged, or belongs to somebody else."""


class BundleStoreError(BundleError):
    """Nothing can be done with the store as it is: no room, not writable, open to others, held by another process, its ledger damaged."""


@contextmanager
def told_in_a_sentence(folder: Path) -> Iterator[None]:
    """Give an error of the operating system as a `BundleStoreError`, with its own reason."""
    try:
        yield
    except OSError as error:
        raise BundleStoreError(
            f"The prepared answers in {folder} cannot be kept there ({error.strerror or error}): {what_to_do(error, lower=True)}."
        ) from error
