"""SIGTERM, with which schedulers announce that a machine is about to be taken: finish the update, save, stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Preempted", "Termination", "termination"]


class Preempted(Exception):  # noqa: N818 - what happened, as with Divergence
    """A run was told to stop (SIGTERM), saved and stopped.

    Attributes:
        step: updates made.
        folder: the checkpoint to go on from.
    """

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(step, folder)
        self.step = step
        self.folder = folder

    def __str__(self) -> str:
        return f"Stopped by SIGTERM after step {self.step}; its checkpoint is {self.folder}: go on with --resume auto."


class Termination:
    """Whether SIGTERM came."""

    asked = False


@contextmanager
def termination() -> Iterator[Termination]:
    """Take note of SIGTERM instead of ending at once. Outside the main thread, where signals can't be caught, nothing is ever noted."""
    noted = Termination()

    def note(number: int, frame: FrameType | None) -> None:
        noted.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)
