"""A relay that does to the bytes on the way what networks and strangers do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

from tests.private.service import Relay

LASTING = ("delay", "throttle", "freeze")
"""Go on until they are taken away; the others happen to one piece of data."""

LEAST_BYTES = 40
"""Of a piece that a fault happens to: not an acknowledgement."""

Fault = Literal["", "delay", "throttle", "freeze", "drop", "duplicate", "corrupt", "truncate", "reset", "half-open"]


class BadRelay(Relay):
    """Passes everything on until `fault` is set; then it happens to what goes the way that `way` keeps, to the target at first.

    delay: every piece comes `DELAY_SECONDS` later. throttle: at most `BYTES_PER_SECOND`. freeze: nothing moves any more, and nothing
    is closed. drop, duplicate, corrupt: one piece is left out, sent twice, or has a bit flipped. truncate: half a piece, then an orderly
    end. reset: both connections are reset. half-open: this direction is closed, the other stays.
    """

    DELAY_SECONDS = 0.005
    BYTES_PER_SECOND = 8_000_000

    def __post_init__(self) -> None:
        self.fault: Fault = ""
        self.way = self.forward
        self.happened = 0
        self._turn = threading.Lock()
        self._over = threading.Event()
        super().__post_init__()

    def __exit__(self, *details: object) -> None:
        self._over.set()
        super().__exit__(*details)

    def _due(self, size: int) -> Fault:
        with self._turn:
            if not self.fault or size < LEAST_BYTES:
                return ""
            fault = self.fault
            self.happened += 1
            if fault not in LASTING:
                self.fault = ""
            return fault

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                match self._due(len(data)) if kept is self.way else "":
                    case "delay":
                        time.sleep(self.DELAY_SECONDS)
                    case "throttle":
                        time.sleep(len(data) / self.BYTES_PER_SECOND)
                    case "freeze":
                        self._over.wait()
                        break
                    case "drop":
                        continue
                    case "duplicate":
                        data += data
                    case "corrupt":
                        middle = len(data) // 2
                        data = data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
                    case "truncate":
                        sink.sendall(data[: len(data) // 2])
                        break
                    case "reset":
                        for end in (source, sink):
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            end.close()
                        return
                    case "half-open":
                        sink.shutdown(socket.SHUT_WR)
                        self._over.wait()
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
