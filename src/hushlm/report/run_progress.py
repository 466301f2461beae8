"""Progress of one or several training runs: rate and time left, as bars on a terminal and as lines in a file.

Written to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hushlm.report.table import progress_console

__all__ = ["CountProgress", "RunsProgress"]

LINE_EVERY_SECONDS = 15.0
"""Without a terminal, each run gets a line at most this often."""

ALL = "all runs"


class RunsProgress:
    """Progress of named runs. A context manager; several runs may go on at once.

    Args:
        steps: how many updates each run has, by its name. Where there are several, a line more shows all of them together.
        bars: whether to draw bars; by default if standard error is a terminal.
    """

    def __init__(self, steps: Mapping[str, int], *, bars: bool | None = None) -> None:
        self._steps = dict(steps)
        self._done = dict.fromkeys(steps, 0)
        self._ended: set[str] = set()
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._begin = time.monotonic()
        self._bars = sys.stderr.isatty() if bars is None else bars
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=progress_console(),
            disable=not self._bars,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> RunsProgress:
        self._progress.start()
        for name, steps in self._steps.items():
            self._tasks[name] = self._progress.add_task(name, total=steps, start=False, note="waiting")
        if len(self._steps) > 1:
            self._tasks[ALL] = self._progress.add_task(ALL, total=sum(self._steps.values()), note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, name: str) -> None:
        """A run begins; its clock runs from here."""
        self._started[name] = self._last_line[name] = time.monotonic()
        self._progress.start_task(self._tasks[name])
        self._progress.update(self._tasks[name], note="starting")

    def update(self, name: str, step: int, note: str) -> None:
        """A run has done `step` steps.

        Args:
            note: what to show beside the bar, e.g. the loss.
        """
        if name not in self._started:
            self.start(name)
        self._done[name] = step
        rate = step / max(time.monotonic() - self._started[name], 1e-9)
        note = f"{note}, {rate:.1f} steps/s"
        self._progress.update(self._tasks[name], completed=step, note=note)
        self._update_all()
        if not self._bars and time.monotonic() - self._last_line[name] >= LINE_EVERY_SECONDS:
            self._last_line[name] = time.monotonic()
            left = (self._steps[name] - step) / max(rate, 1e-9)
            self._line(f"{name}: {step}/{self._steps[name]}, {note}, {_clock(left)} left{self._left_for_all()}")

    def end(self, name: str, note: str) -> None:
        """A run ended, perhaps before its last step.

        Args:
            name: which run.
            note: what came out of it.
        """
        self._ended.add(name)
        if self._bars:
            self._progress.update(self._tasks[name], total=self._done[name] or 1, completed=self._done[name] or 1, note=note)
            self._update_all()
        else:
            self._line(f"{name}: {note}")

    def _totals(self) -> tuple[int, int]:
        """How many steps all runs have done, and how many there are to do in all. A run that has ended counts with what it did."""
        return sum(self._done.values()), sum(self._done[n] if n in self._ended else s for n, s in self._steps.items())

    def _update_all(self) -> None:
        if ALL in self._tasks:
            done, total = self._totals()
            self._progress.update(self._tasks[ALL], completed=done, total=total)

    def _left_for_all(self) -> str:
        if len(self._steps) == 1:
            return ""
        done, total = self._totals()
        left = (total - done) * (time.monotonic() - self._begin) / max(done, 1)
        return f" (all runs: {_clock(left)})"

    @staticmethod
    def _line(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class CountProgress:
    """Progress of many like things: a line for each as it ends, with the time left for all.

    Args:
        name: what they are, in the plural.
        count: how many are to be done now.
        total: how many there are with those that come later; the time left is for all of these.
    """

    def __init__(self, name: str, count: int, total: int) -> None:
        self._name, self._count, self._total = name, count, max(count, total)
        self._done = 0
        self._begin = time.monotonic()

    def begin(self, note: str) -> None:
        """Say how many there are, for the first of them may take long.

        Args:
            note: how they are done.
        """
        later = f", {self._total - self._count} later" if self._total > self._count else ""
        print(f"{self._count} {self._name} to be made now{later}, {note}.", file=sys.stderr, flush=True)

    def advance(self, note: str) -> None:
        """One more is done.

        Args:
            note: what came out of it.
        """
        self._done += 1
        left = (self._total - self._done) * (time.monotonic() - self._begin) / self._done
        later = f" and {self._total - self._count} later" if self._total > self._count else ""
        print(f"{self._done}/{self._count} {self._name}{later}, {_clock(left)} left. {note}", file=sys.stderr, flush=True)
