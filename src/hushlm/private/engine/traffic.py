"""What the run of a program moved, as the engine itself counted it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["OperationTraffic", "Traffic", "read_traffic"]


@dataclass(frozen=True)
class OperationTraffic:
    """What one kind of engine operation moved at this party. Operations nest, so that different levels must not be added up."""

    calls: int
    seconds: float
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True)
class Traffic:
    """What one run moved at this party, exactly, from the engine's own counters. Framing by TCP and TLS is not included.

    Attributes:
        sent_bytes, received_bytes: the payload of the engine's link.
        sent_messages, received_messages: how often this party sent and received.
        seconds: the wall time of the run.
        operations: what each operation of the compiled program moved, e.g. "pphlo.dot".
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_messages: int = 0
    received_messages: int = 0
    seconds: float = 0.0
    operations: dict[str, OperationTraffic] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """The bytes of both directions together."""
        return self.sent_bytes + self.received_bytes

    def __add__(self, other: Traffic) -> Traffic:
        operations = dict(self.operations)
        for name, b in other.operations.items():
            a = operations.get(name, OperationTraffic(0, 0.0, 0, 0))
            operations[name] = OperationTraffic(
                a.calls + b.calls, a.seconds + b.seconds, a.sent_bytes + b.sent_bytes, a.received_bytes + b.received_bytes
            )
        return Traffic(
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
            self.sent_messages + other.sent_messages,
            self.received_messages + other.received_messages,
            self.seconds + other.seconds,
            operations,
        )


_LINK = re.compile(r"Link details: total send bytes (\d+), recv bytes (\d+), send actions (\d+), recv actions (\d+)")
_LEVEL = re.compile(r"(HLO|HAL|MPC) profiling: total time")
_OPERATION = re.compile(r"- (\S+), executed (\d+) times, duration ([\d.e+-]+)s, send bytes (\d+) recv bytes (\d+)")


def read_traffic(text: str, seconds: float) -> Traffic:
    """The counters of the last run in an engine's log, which is the only place where the engine states them."""
    level, operations, totals = "", {}, (0, 0, 0, 0)
    for line in text.splitlines():
        if found := _LEVEL.search(line):
            level = found[1]
        elif (found := _OPERATION.search(line)) and level == "HLO":
            operations[found[1]] = OperationTraffic(int(found[2]), float(found[3]), int(found[4]), int(found[5]))
        elif found := _LINK.search(line):
            totals = (int(found[1]), int(found[2]), int(found[3]), int(found[4]))
    return Traffic(*totals, seconds, operations)
