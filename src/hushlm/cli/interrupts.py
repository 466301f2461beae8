"""Ctrl-C while a session has to be given up at both ends."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["forget_interrupt", "one_interrupt"]


@contextmanager
def one_interrupt() -> Iterator[None]:
    """The first SIGINT in the block is a KeyboardInterrupt; later ones are ignored until the process ends.

    Ending a session's worker and removing its folder takes a moment, and a second Ctrl-C in that moment would leave both behind.
    """

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, before)


def forget_interrupt() -> None:
    """Keep CPython from ending a handled KeyboardInterrupt with a signal instead of the exit code.

    Where the exception passed through code that a C extension runs (while it is imported, say), CPython remembers it as unhandled and
    kills the process with SIGINT at its end. Running any code by the same way makes it forget.
    """
    ctypes.pythonapi.PyRun_SimpleString(b"pass")
