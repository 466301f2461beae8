"""What a user sees of a question: its progress on standard error, a bar on a terminal and otherwise a line now and then; and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hushlm.report.session_display import SessionDisplay
from hushlm.report.table import Column, Table, print_table

if TYPE_CHECKING:
    from hushlm.private.client.answer import PrivateAnswer
    from hushlm.private.client.progress import Progress

__all__ = ["QuestionProgress", "clock", "describe", "print_answer"]


class QuestionProgress(SessionDisplay):
    """Shows where a session is: layer, bytes so far and expected, share done, time left."""

    def update(self, progress: Progress) -> None:
        """Show a further report of progress. A note is told once and stays."""
        if progress.phase == "note":
            self.tell(describe(progress))
        else:
            self.show(describe(progress), progress.phase, progress.seconds, progress.done_share if progress.phase == "query" else None)


def describe(progress: Progress) -> str:
    """Progress in one line, without the time that has passed."""
    match progress.phase:
        case "note":
            return progress.note
        case "waiting":
            return "no place at the server, asking again soon"
        case "queued":
            return f"in the server's queue, place {progress.position}"
        case "set-up":
            prepared = ", from a prepared answer" if progress.prepared else ""
            return f"setting up the engine; {progress.expected_bytes / 1e6:.1f} MB to come{prepared}"
    # Between two layers the one that was just done is shown.
    layer = progress.layer if progress.layer is not None else (0 if progress.step * 2 < progress.steps else progress.layers)
    moved = f"{progress.traffic.total_bytes / 1e6:.1f} of {progress.expected_bytes / 1e6:.1f} MB"
    left = f"{100 * progress.done_share:.0f}%, about {clock(progress.remaining_seconds)} left"
    return f"token {progress.token} of {progress.tokens}, layer {layer} of {progress.layers}, {moved}, {left}"


def print_answer(answer: PrivateAnswer) -> None:
    """Print an answer to standard output, with what was revealed and what it moved."""
    from hushlm.private.client.answer import traffic_fields

    print(f"prompt, its last tokens:  {answer.prompt_text[-60:]!r}")
    print(f"answer:                   {answer.text!r}")
    if answer.candidate is not None:
        print(f"likeliest candidate:      {answer.candidate!r}")
    print(f"tokens:                   {list(answer.tokens)}")
    for token_answer in answer.answers:
        if token_answer.top is not None:
            print("  " + ", ".join(f"{token}: {logit:.3f}" for token, logit in token_answer.top))
    if not answer.was_sent:
        print(f"{answer.query_seconds:.1f} s in one process: nothing was sent.")
        return
    columns = (
        Column("phase", ""),
        Column("bytes_client_to_server", "client to server (MB)", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("bytes_server_to_client", "server to client (MB)", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("messages", "messages", "d", "right"),
        Column("seconds", "seconds", ".1f", "right"),
    )
    rows = [
        {"phase": "set-up", **traffic_fields(answer.set_up), "seconds": answer.set_up_seconds},
        {"phase": f"{len(answer.tokens)} tokens", **traffic_fields(answer.query), "seconds": answer.query_seconds},
    ]
    note = (
        "Payload of the engine's links, counted by the engine; 1 MB = 10^6 bytes. Set-up includes starting both processes. "
        f"Predicted before: {answer.expected_bytes / 1e6:.2f} MB."
    )
    if answer.prepared:
        note += " A prepared answer was used up; what preparing it moved is not counted here."
    print_table(Table("What it took", columns, rows, note))


def clock(seconds: float) -> str:
    """A time as minutes and seconds, and hours where it has some."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"
