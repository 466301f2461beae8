"""What oblivious transfers take by how they are made: CPU seconds and seconds, between two processes of one thread each.

    python benchmarks/transfers.py

Prints the seconds of starting a worker, of a message that asks for transfers, and of a transfer that was asked for: the constants
`ferret_worker_seconds`, `softspoken_worker_seconds`, `ask_seconds` and `asked_transfer_seconds` of the cost room, by hand in
src/hushlm/cost/constants. Each is the quickest of several runs, because other work makes them slower. About two minutes.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from hushlm.calibration.both_parties import stream_both
from hushlm.cost.constants import load_constants
from hushlm.cost.primitives import Primitives
from hushlm.plan.protocol_settings import SMALL_RING_BITS, Transfers
from hushlm.private.engine import Engine, EngineSettings

SESSIONS = 3
SIZES = (200, 2000, 20_000)
REPEATS = 7

Seconds = tuple[float, float]
"""CPU seconds of one party, and seconds that passed."""


def _timed(run: Any) -> Seconds:
    usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    later = resource.getrusage(resource.RUSAGE_SELF)
    return later.ru_utime + later.ru_stime - usage.ru_utime - usage.ru_stime, time.perf_counter() - start


def comparisons(engine: Engine) -> Iterator[list[Seconds]]:
    """The first comparisons of 64 numbers in the small ring and then later ones, and then those of `SIZES`."""
    from hushlm.private.prepared.desk import Desk

    desk = Desk(engine)
    for size in (64, *SIZES):
        words, runs = np.arange(size, dtype=np.uint64), []
        for _ in range(REPEATS + 1):
            desk.link.open(words[:1])
            runs.append(_timed(lambda words=words: desk.small("compare", lambda x: x < 0, [words])))
        # The first of a size compiles its program; the first of all starts the worker.
        yield runs


def measured(kind: Transfers) -> dict[str, Seconds]:
    """Of the start of a worker, and of a comparison of each size: CPU seconds of both parties, and seconds."""
    found: dict[str, list[Seconds]] = {}
    for _ in range(SESSIONS):
        settings = replace(EngineSettings(), threads=1, transfers=kind)
        for size, (client, server) in zip((64, *SIZES), stream_both(comparisons, (), settings), strict=True):
            both = [(a[0] + b[0], max(a[1], b[1])) for a, b in zip(client, server, strict=True)]
            found.setdefault(f"first {size}", []).append(both[0])
            found.setdefault(str(size), []).extend(both[1:])
    quickest = {name: (min(run[0] for run in runs), min(run[1] for run in runs)) for name, runs in found.items()}
    compiling = [quickest["first 200"][way] - quickest["200"][way] for way in range(2)]
    started = [quickest["first 64"][way] - quickest["64"][way] - compiling[way] for way in range(2)]
    return {"worker": (started[0], started[1])} | {name: seconds for name, seconds in quickest.items() if name in map(str, SIZES)}


def main() -> None:
    by_kind = {kind: measured(kind) for kind in ("ferret", "softspoken")}
    asked = Primitives(load_constants().values, replace(EngineSettings(), threads=1, transfers="softspoken"), SMALL_RING_BITS)
    units = np.array([[compared.asks, compared.asked_transfers] for compared in map(asked.compare, SIZES)])
    more = np.array([np.subtract(by_kind["softspoken"][str(size)], by_kind["ferret"][str(size)]) for size in SIZES])
    weights = 1 / more.max(1, keepdims=True)
    found = np.linalg.lstsq(units * weights, more * weights, rcond=None)[0]
    constants = {
        "ferret_worker_seconds": by_kind["ferret"]["worker"],
        "softspoken_worker_seconds": by_kind["softspoken"]["worker"],
        "ask_seconds": tuple(found[0]),
        "asked_transfer_seconds": tuple(found[1]),
    }
    print(json.dumps({"runs": by_kind, "constants": {name: list(map(float, value)) for name, value in constants.items()}}, indent=1))


if __name__ == "__main__":
    main()
