"""How far a private session is, on standard error: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from hushlm.report.table import progress_console

__all__ = ["SessionDisplay"]

LINE_EVERY_SECONDS = 15.0


class SessionDisplay:
    """What a question and a preparation show alike. It is a context manager.

    Args:
        bars: whether to draw a bar; by default only if standard error is a terminal.
    """

    def __init__(self, *, bars: bool | None = None) -> None:
        self._bars = sys.stderr.isatty() if bars is None else bars
        self._last, self._stage = float("-inf"), ""
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=progress_console(),
            disable=not self._bars,
            transient=True,
        )
        self._task = self._progress.add_task("opening the session", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, text: str, stage: str, seconds: float, done_share: float | None) -> None:
        """Show how far it is. Without a terminal each new stage gets a line, and a long stage a line now and then.

        Args:
            text: the line.
            stage: what it is about; another stage is told at once.
            seconds: since the beginning.
            done_share: what is done, from 0 to 1; None where nobody knows.
        """
        self._progress.update(self._task, description=text, completed=done_share or 0.0, total=None if done_share is None else 1.0)
        now = time.monotonic()
        if not self._bars and (stage != self._stage or now - self._last > LINE_EVERY_SECONDS):
            self._last, self._stage = now, stage
            print(f"{seconds:.0f} s: {text}", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Print a line that stays, whatever the bar does."""
        if self._bars:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
