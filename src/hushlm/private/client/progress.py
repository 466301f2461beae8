"""How far a session is: the worker's events as progress, with what the cost model expects beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hushlm.private.client.estimate import Estimate
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.token_answer import StepTraffic, TokenAnswer
from hushlm.private.session.process import WorkerEvent

__all__ = ["OnProgress", "Progress", "ProgressTracker"]


@dataclass(frozen=True)
class Progress:
    """Where a session is.

    Attributes:
        phase: "note" for something to be told once; "waiting" before a further attempt, "queued" at the server, "set-up" until the engine
            is ready, then "query".
        token: number of the token that is being computed, counted from 1.
        tokens: how many tokens will be computed.
        step: number of the step that was just done, in the pass for that token, counted from 1.
        steps: how many steps that pass has.
        layer: number of the block that the step belongs to, counted from 1; None outside the blocks.
        layers: how many blocks the model has.
        traffic: what has moved so far in this phase.
        seconds: time since the question was asked.
        expected_bytes: what the cost model expects the query to move, both directions together.
        done_share: the share of the query's time that has passed, by the cost model; 0 before the query begins.
        remaining_seconds: the cost model's time for what is left, at the pace of what is done; before anything is done, for a local
            network.
        position: place in the server's queue, 1 being the next; None elsewhere.
        prepared: whether the session uses a prepared answer.
        note: with the phase "note", one line on prepared answers.
    """

    phase: str
    token: int
    tokens: int
    step: int
    steps: int
    layer: int | None
    layers: int
    traffic: Traffic
    seconds: float
    expected_bytes: int
    done_share: float
    remaining_seconds: float
    position: int | None = None
    prepared: bool = False
    note: str = ""


OnProgress = Callable[[Progress], None]


class ProgressTracker:
    """Makes progress and answers of a worker's events.

    Args:
        layers: how many blocks the model has.
        expected: what the cost model expects of the question.
        start: when the question was asked, on the clock `time.perf_counter`.
        prepared: whether the session uses a prepared answer.
    """

    def __init__(self, layers: int, expected: Estimate, start: float, prepared: bool = False) -> None:
        self._layers, self._expected, self._start, self._prepared = layers, expected, start, prepared
        self._tokens = len(expected.passes)
        self._token, self._traffic = 1, Traffic()
        self._ready = 0.0
        self._steps: list[StepTraffic] = []

    def waiting(self, position: int | None = None) -> Progress:
        """Progress of a client that waits in the server's queue (at `position`), or between two attempts (None)."""
        return self._progress("waiting" if position is None else "queued", 0, 1, None, position)

    def told(self, note: str) -> Progress:
        """A line on prepared answers, to be shown once."""
        return replace(self._progress("note", 0, 1, None), note=note)

    def note(self, event: WorkerEvent) -> Iterator[TokenAnswer | Progress]:
        """What an event of the worker means to the caller: one report, or none."""
        match event.event:
            case "linked":
                yield self._progress("set-up", 0, 1, None)
            case "ready":
                assert event.traffic is not None
                self._traffic = event.traffic.to_traffic()
                self._ready = time.perf_counter()
                yield self._progress("set-up", 1, 1, None)
                self._traffic = Traffic()
            case "step":
                assert event.traffic is not None
                assert event.index is not None
                assert event.count is not None
                assert event.name is not None
                moved = event.traffic.to_traffic()
                self._traffic += moved
                self._steps.append(StepTraffic(event.name, event.layer, moved))
                yield self._progress("query", event.index + 1, event.count, None if event.layer is None else event.layer + 1)
            case "token":
                self._token += 1
                yield replace(event.to_answer(), steps=tuple(self._steps))
                self._steps = []

    def _progress(self, phase: str, step: int, steps: int, layer: int | None, position: int | None = None) -> Progress:
        now, token = time.perf_counter(), min(self._token, self._tokens)
        total, remaining = self._expected.seconds, self._expected.seconds
        done = self._expected.seconds_done(token - 1, step) if phase == "query" else 0.0
        if done > 0:
            remaining = (total - done) * (now - self._ready) / done
        return Progress(
            phase=phase,
            token=token,
            tokens=self._tokens,
            step=step,
            steps=steps,
            layer=layer,
            layers=self._layers,
            traffic=self._traffic,
            seconds=now - self._start,
            expected_bytes=self._expected.bytes,
            done_share=done / total,
            remaining_seconds=remaining,
            position=position,
            prepared=self._prepared,
        )
