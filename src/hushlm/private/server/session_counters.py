"""What a session's worker at the server has done so far, for the log, the metrics and the client's account."""

from __future__ import annotations

from hushlm.private.engine.traffic import Traffic
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.session.process import WorkerEvent

__all__ = ["SessionCounters"]


class SessionCounters:
    """Counts what one session has done.

    Args:
        metrics: the server's counters, which are updated at the same time.
    """

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._linked = False
        self.tokens = self.prepared = 0
        self.traffic = Traffic()
        self._step_traffic = Traffic()

    def note(self, event: WorkerEvent) -> None:
        """Count one event of the worker."""
        if event.event == "linked":
            self._linked = True
        if event.event in ("stored", "burnt"):
            self.prepared += event.event == "stored"
            self._metrics.prepared.labels("made" if event.event == "stored" else "used").inc()
        elif event.event == "failed" and event.kind == "bundle":
            self._metrics.prepared.labels("dropped").inc()
        if event.traffic is None:
            return
        moved = event.traffic.to_traffic()
        match event.event:
            case "step":
                self._step_traffic += moved
            case "token":
                # Its traffic is that of its steps, which are counted, and of its opening.
                self.tokens += 1
                self._metrics.tokens.labels("generated").inc()
                moved, self._step_traffic = _without(moved, self._step_traffic), Traffic()
        self.traffic += moved
        self._metrics.moved(moved)

    def charged(self, wanted: int, finished: bool) -> int:
        """How many tokens the client is charged for: one that was being computed when the session broke may have reached it."""
        return wanted if finished else min(wanted, self.tokens + self._linked)


def _without(whole: Traffic, part: Traffic) -> Traffic:
    return Traffic(whole.sent_bytes - part.sent_bytes, whole.received_bytes - part.received_bytes)
