"""Runs steps of plans in two real processes and reports every single run: what the cost room's predictions are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hushlm.calibration.both_parties import stream_both
from hushlm.calibration.counting import run_step
from hushlm.plan import Plan, Step
from hushlm.private.engine import Engine, EngineSettings, Party
from hushlm.private.program.backend import EngineBackend

WARM_ELEMENTS = 4096
"""Enough for both OT workers of the default settings to start."""


@dataclass(frozen=True)
class Run:
    """Bytes and messages of one execution, seen from the client."""

    forward_bytes: int
    back_bytes: int
    forward_messages: int
    back_messages: int
    seconds: float

    @property
    def total_bytes(self) -> int:
        return self.forward_bytes + self.back_bytes


def _warm_up(engine: Engine, backend: EngineBackend) -> None:
    """Start every worker and make all keys, so that no run pays for set-up."""
    for name, owner in (("a", Party.CLIENT), ("b", Party.SERVER)):
        for size, label in ((WARM_ELEMENTS, name), (64, f"small.{name}")):
            backend.put(label, owner, (size,), np.ones(size) if engine.party is owner else None)
    backend.run("compare", lambda xp: lambda a, b: xp.maximum(a + b, 0.0), ("a", "b"), ("out",), ())
    backend.run(
        "products",
        lambda xp: lambda a, b: xp.exp((a + b) * 0.01).reshape(8, 8) @ (a + b).reshape(8, 8),
        ("small.a", "small.b"),
        ("out",),
        (),
    )


def _count_at_party(engine: Engine, work: list[tuple[Plan, Step]], repeats: int) -> Iterator[list[Run]]:
    backend = EngineBackend(engine)
    _warm_up(engine, backend)
    for plan, step in work:
        yield [
            Run(t.sent_bytes, t.received_bytes, t.sent_messages, t.received_messages, t.seconds)
            for t in run_step(engine, backend, plan, step, repeats)
        ]


def count_every_run(work: list[tuple[Plan, Step]], settings: EngineSettings, repeats: int) -> list[list[Run]]:
    """Every run of every step at the client, in the order in which they were made; set-up is over before the first."""
    counted = []
    for client, server in stream_both(_count_at_party, (work, repeats), settings):
        assert [(r.forward_bytes, r.back_bytes) for r in client] == [(r.back_bytes, r.forward_bytes) for r in server]
        counted.append(client)
    assert len(counted) == len(work)
    return counted
