"""Opening a corpus where somebody waits for it: progress while it becomes tokens, and a line on what it gave."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hushlm.config import DataConfig
    from hushlm.data import TokenStore

__all__ = ["open_and_tell"]

_FIRST_SECONDS, _EVERY_SECONDS = 1.0, 10.0
"""When the first line of progress comes, at the earliest, and how often the next ones."""


def open_and_tell(data: DataConfig, *, quiet: bool = False, is_new: bool = True) -> TokenStore:
    """Open a token store, with progress and the corpus's line on standard error.

    Args:
        data: corpus and tokenizer.
        quiet: print nothing but a warning about what was left out.
        is_new: whether it is news what the corpus holds; otherwise only progress is printed, if there is something to wait for.

    Raises:
        ValueError: from `open_token_store`.
    """
    from hushlm.data import open_token_store

    begin = time.monotonic()
    next_line, done = begin + _FIRST_SECONDS, 0

    def tell(count: int) -> None:
        nonlocal next_line, done
        done += count
        if not quiet and time.monotonic() >= next_line:
            next_line = time.monotonic() + _EVERY_SECONDS
            _say(f"{data.corpus}: {done / 1e6:,.0f} MB of text are tokens now, after {time.monotonic() - begin:.0f} seconds")

    # Before there are tokens the files are read for their fingerprints, a second for each gigabyte or more.
    slow = threading.Timer(_FIRST_SECONDS, lambda: _say(f"reading {data.corpus} as {data.tokenizer}"))
    slow.daemon = True
    if not quiet:
        slow.start()
    try:
        store = open_token_store(data, on_bytes=tell)
    finally:
        slow.cancel()
    if is_new and not quiet:
        _say(store.report.line())
    if warning := store.report.warning():
        _say(warning)
    return store


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
