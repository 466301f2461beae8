"""What a user sees of a batch of questions: its progress on standard error, and the sum at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from hushlm.report.question import describe
from hushlm.report.session_display import SessionDisplay

if TYPE_CHECKING:
    from hushlm.private.client.batch import BatchReport
    from hushlm.private.client.progress import Progress

__all__ = ["BatchProgress", "print_batch"]


class BatchProgress(SessionDisplay):
    """Shows which line is asked, and how far its session is."""

    def __init__(self) -> None:
        super().__init__()
        self._start, self._report, self._notes = time.monotonic(), (0, 0, 0), set[str]()

    def answered(self, report: BatchReport) -> None:
        """A line is answered, or the batch begins."""
        self._report = (report.answered, report.lines, report.errors)
        self._show("", 0.0)

    def update(self, progress: Progress) -> None:
        """A session within the batch has moved on. A note is told once."""
        if progress.phase != "note":
            self._show(f": {describe(progress)}", progress.done_share if progress.phase == "query" else 0.0)
        elif progress.note not in self._notes:
            self._notes.add(progress.note)
            self.tell(progress.note)

    def _show(self, text: str, share: float) -> None:
        answered, lines, errors = self._report
        failed = f", {errors} with an error" if errors else ""
        line = f"{answered} of {lines} lines answered{failed}{text}"
        self.show(line, "batch", time.monotonic() - self._start, (answered + share) / lines if lines else None)


def print_batch(report: BatchReport, output: Path) -> None:
    """Print how many lines are answered, how many of them with an error, and how many as expected."""
    kept = f" ({report.kept} of them before)" if report.kept else ""
    print(f"{report.answered} of {report.lines} lines answered in {output}{kept}, {report.errors} with an error.")
    if report.expected:
        print(f"As expected: {report.right} of {report.expected} ({report.right / report.expected:.1%}).")
