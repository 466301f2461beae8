"""The identities of all material that was ever used or dropped: what is in here is never given out again.

A record is an identity in hexadecimal and a line feed, 33 bytes, so that a record torn by a power cut is told from a whole one. A torn one
was never acknowledged, so nothing was sent on its account; the next record takes its place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hushlm.private.bundles.bundle_errors import BundleStoreError
from hushlm.private.bundles.private_files import read_private, write_all, write_private
from hushlm.private.prepared.material import IDENTITY_BYTES

__all__ = ["UsedLedger"]

_RECORD_BYTES = 2 * IDENTITY_BYTES + 1
_RECORD = re.compile(rb"[0-9a-f]{%d}\n" % (2 * IDENTITY_BYTES))


class UsedLedger:
    """The ledger of one store.

    Args:
        folder: of the store; the ledger is the file `used` in it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "used"

    def create(self) -> None:
        """Begin an empty ledger where there is none."""
        if not os.path.lexists(self._path):
            os.close(write_private(self._path))

    def read(self) -> set[str]:
        """All identities in it.

        Raises:
            BundleStoreError: if it is missing or damaged: then nothing that is stored can be known to be unused.
        """
        return set(self._records())

    def record(self, identity: str) -> None:
        """Add one, on disk when this returns."""
        place = _RECORD_BYTES * len(self._records())
        handle = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.lseek(handle, place, os.SEEK_SET)
            write_all(handle, f"{identity}\n".encode())
        finally:
            os.close(handle)

    def _records(self) -> list[str]:
        try:
            content = read_private(self._path)
        except FileNotFoundError:
            raise BundleStoreError(f"{self._path}, the list of what was used, is missing: {_CURE.format(self._path.parent)}") from None
        records = [content[start : start + _RECORD_BYTES] for start in range(0, len(content), _RECORD_BYTES)]
        if records and not _RECORD.fullmatch(records[-1]):
            records.pop()
        if not all(_RECORD.fullmatch(record) for record in records):
            raise BundleStoreError(f"{self._path}, the list of what was used, is damaged: {_CURE.format(self._path.parent)}")
        return [record[:-1].decode() for record in records]


_CURE = "nothing in {} can be known to be unused, so remove that folder and prepare again."
