"""A user-space network: a TCP relay that delays and rate-limits what passes, for both directions alike.

Each direction is one pipe of a given bandwidth, shared by its connections: a chunk leaves when the pipe is free, and arrives half
a round trip later. Needs no privileges; what it achieves is measured by `probe` and reported beside every timing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event

__all__ = ["MeasuredLink", "Relay", "free_ports", "probe", "relayed"]

CHUNK_BYTES = 16 * 1024
QUEUE_CHUNKS = 4096


@dataclass(frozen=True)
class Relay:
    """Where one party's traffic enters, and where it goes on: both ports on this machine."""

    listen_port: int
    target_port: int


@dataclass(frozen=True)
class MeasuredLink:
    """What a relay achieves: round trip of one byte, and throughput of one direction."""

    round_trip_seconds: float
    bits_per_second: float


class _Pipe:
    """One direction's clock: when the wire is free again."""

    def __init__(self, one_way_seconds: float, bits_per_second: float) -> None:
        self.one_way_seconds, self.seconds_per_byte = one_way_seconds, 8 / bits_per_second
        self._free = 0.0

    def arrival(self, size: int) -> float:
        self._free = max(self._free, time.monotonic()) + size * self.seconds_per_byte
        return self._free + self.one_way_seconds


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pipe: _Pipe) -> None:
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)

    async def deliver() -> None:
        while True:
            arrival, chunk = await queue.get()
            if (wait := arrival - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not chunk:
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()

    task = asyncio.create_task(deliver())
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            await queue.put((pipe.arrival(len(chunk)), chunk))
        await queue.put((pipe.arrival(0), b""))
        await task
    except (ConnectionError, asyncio.CancelledError):
        task.cancel()
        writer.close()


async def _serve(relays: tuple[Relay, ...], one_way_seconds: float, bits_per_second: float, ready: Event) -> None:
    # A relay carries one party's requests; answers on the same connection travel the other direction's wire.
    wires = [_Pipe(one_way_seconds, bits_per_second) for _ in range(2)]

    def handler(index: int, target_port: int):  # type: ignore[no-untyped-def]
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(
                _carry(reader, far_writer, wires[index % 2]), _carry(far_reader, writer, wires[1 - index % 2]), return_exceptions=True
            )

        return handle

    servers = [await asyncio.start_server(handler(i, relay.target_port), "127.0.0.1", relay.listen_port) for i, relay in enumerate(relays)]
    ready.set()
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _main(relays: tuple[Relay, ...], one_way_seconds: float, bits_per_second: float, ready: Event) -> None:
    asyncio.run(_serve(relays, one_way_seconds, bits_per_second, ready))


@contextmanager
def relayed(relays: tuple[Relay, ...], round_trip_seconds: float, bits_per_second: float) -> Iterator[None]:
    """Run relays in a process of their own: the first carries one party's traffic, the second the other's."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_main, args=(relays, round_trip_seconds / 2, bits_per_second, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("The relay did not start.")
        yield
    finally:
        process.kill()
        process.join()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def probe(round_trip_seconds: float, bits_per_second: float, megabytes: float = 2.0) -> MeasuredLink:
    """Measure a relay of these settings with plain sockets."""
    listen_port, target_port = free_ports(2)
    size = int(megabytes * 1e6)
    listener = socket.create_server(("127.0.0.1", target_port))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(5):
                connection.sendall(connection.recv(1))
            left = size
            while left:
                left -= len(connection.recv(65536))
            connection.sendall(b"x")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with listener, relayed((Relay(listen_port, target_port),), round_trip_seconds, bits_per_second):
        with socket.create_connection(("127.0.0.1", listen_port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trips = []
            for _ in range(5):
                start = time.perf_counter()
                connection.sendall(b"x")
                connection.recv(1)
                trips.append(time.perf_counter() - start)
            start = time.perf_counter()
            connection.sendall(bytes(size))
            connection.recv(1)
            moved = time.perf_counter() - start - min(trips)
        thread.join(10)
    return MeasuredLink(min(trips), 8 * size / max(moved, 1e-9))
