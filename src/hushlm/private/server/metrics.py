"""What a server counts, for Prometheus. Labels are fixed words: none names a client, a session or anything that a client sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hushlm.private.engine.traffic import Traffic

__all__ = ["OUTCOMES", "PREPARED", "REASONS", "ServerMetrics"]

OUTCOMES = ("finished", "failed", "given_up", "stopped")
"""How a session that had a place ended: with its answer, with a sentence, by its client, with the server."""

REASONS = ("invalid", "late", "sessions", "tokens", "full", "stopping", "prepared")
"""Why a request was refused: what it said, when it came, the client's two limits, no place, the server's end, prepared answers."""

PREPARED = ("made", "used", "dropped")
"""What became of prepared answers."""

SECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


class ServerMetrics:
    """The counters of one server, in a registry of their own.

    Args:
        workers: sessions at a time.
        running, waiting: how many sessions have a worker, and how many are in the queue, now.
    """

    def __init__(self, workers: int, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Counter("hushlm_sessions", "Sessions that had a place, by outcome.", ["outcome"], registry=self.registry)
        self.refused = Counter("hushlm_refused", "Requests for a session that were refused.", ["reason"], registry=self.registry)
        self.tokens = Counter("hushlm_tokens", "Tokens, read and generated.", ["kind"], registry=self.registry)
        self.bytes = Counter("hushlm_engine_bytes", "Payload of the engines' links.", ["direction"], registry=self.registry)
        self.seconds = Histogram("hushlm_session_seconds", "From the worker's start to its end.", buckets=SECONDS, registry=self.registry)
        self.prepared = Counter("hushlm_prepared_answers", "Prepared answers, by what became of them.", ["event"], registry=self.registry)
        self.queue_seconds = Histogram("hushlm_queue_seconds", "In the queue.", buckets=(0.1, *SECONDS), registry=self.registry)
        for name, text, value in (
            ("hushlm_workers", "Sessions at a time.", lambda: workers),
            ("hushlm_sessions_running", "Sessions that have a worker.", running),
            ("hushlm_queue_length", "Sessions in the queue.", waiting),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)
        # Shown as 0 before the first one, so that rates and alarms work from the start.
        for counter, words in (
            (self.sessions, OUTCOMES),
            (self.refused, REASONS),
            (self.tokens, ("prompt", "generated")),
            (self.bytes, ("received", "sent")),
            (self.prepared, PREPARED),
        ):
            for word in words:
                counter.labels(word)

    def show_prepared(self, count: Callable[[], float], size_bytes: Callable[[], float]) -> None:
        """Show how many prepared answers are kept, and their size, whenever the metrics are read."""
        Gauge("hushlm_prepared_held", "Prepared answers that are kept.", registry=self.registry).set_function(count)
        Gauge("hushlm_prepared_bytes", "Bytes of prepared answers on disk.", registry=self.registry).set_function(size_bytes)

    def moved(self, traffic: Traffic) -> None:
        """Count what an execution moved at this party."""
        self.bytes.labels("received").inc(traffic.received_bytes)
        self.bytes.labels("sent").inc(traffic.sent_bytes)
