"""An emulated network: a TCP relay that delays what passes and limits its rate, in both directions alike.

Each direction is one wire of a given bandwidth, which its connections share. A chunk leaves when the wire is free, and arrives half a
round trip later. The relay needs no privileges. What it achieves is measured by `probe` and reported beside every timing.
"""

from __future__ import annotations

import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from statistics import median

__all__ = ["Link", "MeasuredLink", "Relay", "SwitchableLink", "free_ports", "probe", "relayed"]

CHUNK_BYTES = 64 * 1024
PROBES = 20


@dataclass(frozen=True)
class Link:
    """A network to emulate.

    Attributes:
        round_trip_seconds: how long a byte and its answer take.
        bits_per_second: how much each direction carries.
    """

    round_trip_seconds: float
    bits_per_second: float


class SwitchableLink:
    """A network to emulate that any process which holds it can replace by another one; what is under way arrives as it was sent.

    So one session can answer through several networks. It must be created before the processes that share it.
    """

    def __init__(self, link: Link) -> None:
        context = multiprocessing.get_context("spawn")
        self._one_way_seconds: Synchronized[float] = context.Value("d", 0.0)
        self._seconds_per_byte: Synchronized[float] = context.Value("d", 0.0)
        self.switch(link)

    def switch(self, link: Link) -> None:
        """What is sent from now on travels through `link`."""
        self._one_way_seconds.value, self._seconds_per_byte.value = link.round_trip_seconds / 2, 8 / link.bits_per_second

    @property
    def one_way_seconds(self) -> float:
        return self._one_way_seconds.value

    @property
    def seconds_per_byte(self) -> float:
        return self._seconds_per_byte.value


@dataclass(frozen=True)
class Relay:
    """The port at which one party's traffic enters the relay, and the port to which it goes on; both are on this machine."""

    listen_port: int
    target_port: int


@dataclass(frozen=True)
class MeasuredLink:
    """What a relay achieves: the median round trip of one byte, and the throughput of one direction."""

    round_trip_seconds: float
    bits_per_second: float


class _Wire:
    """One direction of the network, which knows when it is free again."""

    def __init__(self, link: SwitchableLink) -> None:
        self._link, self._free, self._lock = link, 0.0, threading.Lock()

    def arrival(self, size: int) -> float:
        """When `size` bytes that are sent now arrive, on the monotonic clock; the wire is busy until they have left."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size * self._link.seconds_per_byte
            return self._free + self._link.one_way_seconds


def _carry(source: socket.socket, sink: socket.socket, wire: _Wire) -> None:
    """Pass on what one direction of one connection carries, until it closes."""
    pending: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        with suppress(OSError):
            while True:
                arrival, chunk = pending.get()
                if (wait := arrival - time.monotonic()) > 0:
                    time.sleep(wait)
                if not chunk:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(chunk)

    threading.Thread(target=deliver, daemon=True).start()
    chunk = b"x"
    while chunk:
        try:
            chunk = source.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        pending.put((wire.arrival(len(chunk)), chunk))


def _listen(relay: Relay, there: _Wire, back: _Wire, listener: socket.socket) -> None:
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", relay.target_port))
        except OSError:
            near.close()
            continue
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_carry, args=(near, far, there), daemon=True).start()
        threading.Thread(target=_carry, args=(far, near, back), daemon=True).start()


def _main(relays: tuple[Relay, ...], link: SwitchableLink, ready: Event) -> None:
    # A relay carries one party's requests; answers on the same connection travel the other direction's wire.
    wires = [_Wire(link) for _ in range(2)]
    threads = []
    for index, relay in enumerate(relays):
        listener = socket.create_server(("127.0.0.1", relay.listen_port))
        threads.append(threading.Thread(target=_listen, args=(relay, wires[index % 2], wires[1 - index % 2], listener), daemon=True))
    for thread in threads:
        thread.start()
    ready.set()
    threads[0].join()


@contextmanager
def relayed(relays: tuple[Relay, ...], link: SwitchableLink) -> Iterator[None]:
    """Run relays in a process of their own. The first carries one party's traffic, the second the other party's."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_main, args=(relays, link, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("The relay did not start.")
        yield
    finally:
        process.kill()
        process.join()


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which no process listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def probe(round_trip_seconds: float, bits_per_second: float, megabytes: float = 2.0) -> MeasuredLink:
    """Measure with plain sockets what a relay of this round trip and rate achieves."""
    listen_port, target_port = free_ports(2)
    size = int(megabytes * 1e6)

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(PROBES):
                connection.sendall(connection.recv(1))
            left = size
            while left:
                left -= len(connection.recv(65536))
            connection.sendall(b"x")

    with (
        socket.create_server(("127.0.0.1", target_port)) as listener,
        relayed((Relay(listen_port, target_port),), SwitchableLink(Link(round_trip_seconds, bits_per_second))),
    ):
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        with socket.create_connection(("127.0.0.1", listen_port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trips = []
            for _ in range(PROBES):
                start = time.perf_counter()
                connection.sendall(b"x")
                connection.recv(1)
                trips.append(time.perf_counter() - start)
            start = time.perf_counter()
            connection.sendall(bytes(size))
            connection.recv(1)
            moved = time.perf_counter() - start - median(trips)
        thread.join(10)
    return MeasuredLink(median(trips), 8 * size / max(moved, 1e-9))
