"""What a user sees of a preparation: how far it is, on standard error, and what it did."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from hushlm.report.question import LINE_EVERY_SECONDS, clock
from hushlm.report.table import progress_console

if TYPE_CHECKING:
    from hushlm.private.client.preparing import PreparationProgress, PreparationReport

__all__ = ["PreparationDisplay", "describe_preparation", "describe_report"]


class PreparationDisplay:
    """Shows how many answers are prepared, and when the rest will be. It is a context manager.

    Args:
        bars: whether to draw a bar; by default only if standard error is a terminal.
    """

    def __init__(self, *, bars: bool | None = None) -> None:
        self._bars = sys.stderr.isatty() if bars is None else bars
        self._last, self._shown = float("-inf"), ("", 0)
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

    def __enter__(self) -> PreparationDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, progress: PreparationProgress) -> None:
        """Show a further report. Without a terminal each new phase and each further answer gets a line, and a long time some more."""
        text = describe_preparation(progress)
        total = 1.0 if progress.phase == "preparing" else None
        self._progress.update(self._task, description=text, completed=progress.done_share, total=total)
        now, shown = time.monotonic(), (progress.phase, progress.made)
        if not self._bars and (shown != self._shown or now - self._last > LINE_EVERY_SECONDS):
            self._last, self._shown = now, shown
            print(f"{progress.seconds:.0f} s: {text}", file=sys.stderr, flush=True)


def describe_preparation(progress: PreparationProgress) -> str:
    """Progress in one line, without the time that has passed."""
    match progress.phase:
        case "waiting":
            return "no place at the server, asking again soon"
        case "queued":
            return f"in the server's queue, place {progress.position}; questions go first"
        case "set-up":
            return "setting up the engine"
    left = "" if progress.remaining_seconds is None else f", about {clock(progress.remaining_seconds)} left"
    return f"{progress.made} of {progress.answers} made, {100 * progress.done_share:.0f}%{left}"


def describe_report(report: PreparationReport, prompt_bucket: int, new_tokens: int) -> str:
    """What a preparation did, in a line or two."""
    held = f"{report.held} answer{'s are' if report.held != 1 else ' is'} prepared for prompts of {prompt_bucket} tokens (rounded up to a "
    held += f"multiple of 32) and {new_tokens} new ones, {report.disk_bytes / 1e6:.1f} MB on this disk."
    if not report.made:
        return f"{held} Nothing had to be made."
    moved = report.traffic.total_bytes / 1e6
    messages = report.traffic.sent_messages + report.traffic.received_messages
    return (
        f"{held}\n{report.made} of them made now: {moved:.1f} MB in {messages} messages and {report.seconds:.1f} s, "
        f"{moved / report.made:.1f} MB and {report.seconds / report.made:.1f} s each; set-up {report.set_up.total_bytes / 1e6:.1f} MB "
        f"in {report.sessions} session{'s' * (report.sessions != 1)}."
    )
