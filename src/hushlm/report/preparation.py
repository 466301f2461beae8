"""What a user sees of a preparation: how far it is, on standard error, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hushlm.report.question import clock
from hushlm.report.session_display import SessionDisplay

if TYPE_CHECKING:
    from hushlm.private.client.preparing import PreparationProgress, PreparationReport

__all__ = ["PreparationDisplay", "describe_preparation", "describe_report"]


class PreparationDisplay(SessionDisplay):
    """Shows how many answers are prepared, and when the rest will be."""

    def update(self, progress: PreparationProgress) -> None:
        """Show a further report. Each further answer is a stage."""
        done_share = progress.done_share if progress.phase == "preparing" else None
        self.show(describe_preparation(progress), f"{progress.phase} {progress.made}", progress.seconds, done_share)


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
