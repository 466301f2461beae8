"""What tests of faults saw, kept for results/faults.json, which is written by

HUSH_WRITE_FAULTS=1 python -m pytest tests/private -k "faults or engine_links"
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hushlm.files import write_atomic
from tests.private.by_hand import HandMade

RESULTS = Path(__file__).parents[2] / "results" / "faults.json"
SWITCH = "HUSH_WRITE_FAULTS"


@dataclass(frozen=True)
class Fault:
    """One fault and its outcome; a test records it after its assertions.

    Attributes:
        fault: what was done.
        phase: of the session.
        clear_error: the other side had one sentence, or an orderly refusal; null where the fault was survived and the answer right.
        seconds_to_error: from the deed; null where the fault was survived.
        hang: more time passed than the test allows.
        next_client_served: a worker was ready for the next client; null where the fault is the server's own, or no server was there.
    """

    fault: str
    phase: str
    clear_error: bool | None
    seconds_to_error: float | None
    hang: bool
    next_client_served: bool | None


class FaultsSeen:
    """Collects; later entries of one fault and phase replace earlier ones, in the file too."""

    def __init__(self) -> None:
        self._seen: list[Fault] = []

    def add(self, fault: str, phase: str, seconds: float | None, limit_seconds: float, next_client: bool | None) -> None:
        """Record a fault after which there was an error, or with `seconds` None the right answer; asserts what every fault must keep.

        Args:
            fault, phase: what and when.
            seconds: to the error.
            limit_seconds: that it may take.
            next_client: whether the next client got a worker.
        """
        hang = seconds is not None and seconds > limit_seconds
        error = None if seconds is None else True
        self._seen.append(Fault(fault, phase, error, None if seconds is None else round(seconds, 2), hang, next_client))
        assert not hang, f"{fault}: {seconds:.1f} s, and {limit_seconds} are allowed"
        assert next_client is not False, f"{fault}: the next client was not served"

    def write(self) -> None:
        """Into the file, if asked for."""
        if not (os.environ.get(SWITCH) and self._seen):
            return
        known = json.loads(RESULTS.read_text())["faults"] if RESULTS.exists() else []
        faults = {(entry["fault"], entry["phase"]): entry for entry in known}
        faults |= {(entry.fault, entry.phase): asdict(entry) for entry in self._seen}
        write_atomic(RESULTS, json.dumps({"faults": [faults[key] for key in sorted(faults)]}, indent=1) + "\n")


def next_is_served(client: HandMade, seconds: float = 60) -> bool:
    """A worker gets ready for a next client, after a wait in the queue if need be."""
    deadline = time.monotonic() + seconds
    with client.session() as events:
        for event in events:
            if event["event"] != "queued" or time.monotonic() > deadline:
                return event["event"] == "accepted"
    return False


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """A list that holds the seconds of the block afterwards."""
    taken: list[float] = []
    start = time.monotonic()
    try:
        yield taken
    finally:
        taken.append(time.monotonic() - start)
