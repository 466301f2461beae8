"""SIGTERM, with which schedulers announce that a machine is about to be taken, and Ctrl-C: finish the update, save, stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Interrupted", "Preempted", "Termination", "termination"]


class Preempted(Exception):  # noqa: N818 - what happened, as with Divergence
    """A run was told to stop (SIGTERM), saved and stopped.

    Attributes:
        step: how many updates were made.
        folder: the checkpoint to go on from.
    """

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(step, folder)
        self.step = step
        self.folder = folder

    def __str__(self) -> str:
        return f"Stopped by SIGTERM after step {self.step}; its checkpoint is {self.folder}: go on with --resume auto."


class Interrupted(KeyboardInterrupt):
    """A run was interrupted (Ctrl-C), saved and stopped. Who knows nothing of it treats it like any other interruption.

    Attributes:
        step: how many updates were made.
        folder: the checkpoint to go on from.
    """

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(step, folder)
        self.step = step
        self.folder = folder

    def __str__(self) -> str:
        return f"Interrupted after step {self.step}; its checkpoint is {self.folder}: go on with --resume auto."


class Termination:
    """Whether SIGTERM or Ctrl-C came.

    Attributes:
        asked: whether one of them did.
        by_hand: whether it was Ctrl-C.
    """

    asked = False
    by_hand = False

    def stopped(self, step: int, folder: Path) -> Preempted | Interrupted:
        """What to raise once the checkpoint is saved."""
        return Interrupted(step, folder) if self.by_hand else Preempted(step, folder)


@contextmanager
def termination() -> Iterator[Termination]:
    """Take note of SIGTERM and the first Ctrl-C instead of ending at once; a second Ctrl-C ends at once.

    Outside the main thread, where signals can't be caught, nothing is ever noted. A program that treats Ctrl-C in its own way, or
    ignores it, goes on to do so.
    """
    noted = Termination()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and noted.by_hand:
            raise KeyboardInterrupt
        noted.asked = True
        noted.by_hand = noted.by_hand or number == signal.SIGINT

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    caught = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        caught.append(signal.SIGINT)
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
