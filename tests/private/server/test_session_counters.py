"""What a worker's events add up to at the server."""

from __future__ import annotations

import pytest

pytest.importorskip("spu")

from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.server.session_counters import SessionCounters
from hushlm.private.session.process import WorkerEvent, WorkerTraffic


def event(kind: str, sent: int = 0, received: int = 0) -> WorkerEvent:
    moved = WorkerTraffic(sent_bytes=sent, received_bytes=received, sent_messages=1, received_messages=1, seconds=1.0)
    return WorkerEvent.model_validate({"event": kind, "seconds": 1.0, "traffic": moved if sent or received else None})


def value(metrics: ServerMetrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


def test_bytes_are_counted_once_and_tokens_as_they_come() -> None:
    """A token's traffic holds that of its steps; what is more is its opening."""
    metrics = ServerMetrics(1, lambda: 0, lambda: 0)
    tally = SessionCounters(metrics)
    for seen in (event("linked"), event("ready", 100, 200), event("step", 10, 20), event("step", 1, 2), event("token", 15, 22)):
        tally.note(seen)
    assert (tally.traffic.sent_bytes, tally.traffic.received_bytes, tally.tokens) == (115, 222, 1)
    tally.note(event("step", 5, 6))
    assert (tally.traffic.sent_bytes, tally.traffic.received_bytes) == (120, 228)
    assert value(metrics, "hushlm_engine_bytes_total", direction="sent") == 120
    assert value(metrics, "hushlm_engine_bytes_total", direction="received") == 228
    assert value(metrics, "hushlm_tokens_total", kind="generated") == 1


def test_a_client_pays_for_what_may_have_reached_it() -> None:
    tally = SessionCounters(ServerMetrics(1, lambda: 0, lambda: 0))
    assert tally.charged(5, finished=False) == 0
    tally.note(event("linked"))
    assert tally.charged(5, finished=False) == 1
    tally.note(event("token", 1, 1))
    assert tally.charged(5, finished=False) == 2
    assert tally.charged(1, finished=False) == 1
    assert tally.charged(5, finished=True) == 5
