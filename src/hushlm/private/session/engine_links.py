"""The two links between the engines, carried inside connections that the client opened to the server's one port.

Each engine calls the other: two links, of one connection each (`link.spawn()` of the engine opens none of its own). An engine knows
loopback only: it listens there, and calls its peer there, where this module listens in the peer's place. What comes goes, byte for byte,
through a connection that the client opened to the server, and arrives at the peer's own listener:

    engine --loopback--> carry == mutual TLS, from the client to the server == carry --loopback--> engine

The engines' own TLS goes through unseen, and nothing listens on a network but the server, at one port. A connection says with its first
line, a `LinkRequest`, to which session and to which of its links it belongs; the answer is a `LinkAnswer`. (Unix sockets would be out of
other users' reach, but the engine of SPU 0.9.5 stops for ever once a write to one has to wait.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from hushlm.private.session.addresses import format_address, listener_address, reserve_port

__all__ = [
    "BUFFER_BYTES",
    "LINK_PROTOCOL",
    "ROLES",
    "EngineLinks",
    "LinkAnswer",
    "LinkRequest",
    "OnSent",
    "Role",
    "Stream",
    "bounded",
    "carry",
    "engine_links",
]

LINK_PROTOCOL = "hushlm-link"
"""What TLS names as the protocol of a connection that carries a link (ALPN); every other connection speaks HTTP."""

BUFFER_BYTES = 128 * 1024
"""Of what has come and not gone on yet, what a reader or a writer of a link holds at most before it makes its source wait."""

CLOSE_SECONDS = 1.0
"""How long the last bytes may take to leave once a link has ended."""

RETRY_SECONDS = 0.02

LOOPBACK = "127.0.0.1"

ESTABLISHED, USER_COLUMN = "01", 7
"""In /proc/net/tcp, whose addresses are numbers in this machine's byte order."""

Role = Literal["client", "server"]
ROLES: tuple[Role, ...] = ("client", "server")

OnSent = Callable[[Role, bytes], None]
"""Sees what this side sends on a link, with the link's caller."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinkRequest(_Line):
    """What a client says first on a connection that is to carry a link.

    Attributes:
        token: of the session, from its `Accepted`.
        caller: whose engine opens this link.
    """

    token: str = Field(min_length=1, max_length=64)
    caller: Role


class LinkAnswer(_Line):
    """What the server says to that; after a refusal it closes the connection.

    Attributes:
        error: one sentence; None if the link is there.
    """

    error: str | None = Field(None, max_length=300)


class Stream(NamedTuple):
    """Both ends of a connection's data."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class EngineLinks:
    """The links of one party's engine in one session, made by `engine_links`.

    Attributes:
        own_address: HOST:PORT where the engine is to listen.
        peer_address: HOST:PORT where it is to call its peer.
        joined: the links that have got their connection, by caller.
    """

    def __init__(self, own: Role, engine_port: int, connect_seconds: float, on_sent: OnSent | None = None) -> None:
        self._own, self._engine_port, self._connect_seconds, self._on_sent = own, engine_port, connect_seconds, on_sent
        self.own_address, self.peer_address = format_address(LOOPBACK, engine_port), ""
        self._call: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[Stream] = []
        self.joined: set[Role] = set()

    def join(self, caller: Role, far: Stream) -> None:
        """Carry a link over this connection, in a task of its own, for as long as both last."""
        assert caller not in self.joined
        self.joined.add(caller)
        self._connections.append(far)
        self._tasks.append(asyncio.create_task(self._carry(caller, far)))

    def called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the engine's call; a link has one connection, so there is no second one, and no other user's."""
        if self._call.done() or _is_strange(writer.get_extra_info("socket")):
            writer.transport.abort()
        else:
            self._call.set_result(Stream(reader, bounded(writer)))

    async def end(self) -> None:
        """Cut both links."""
        for task in self._tasks:
            task.cancel()
        # Here as well as in the tasks: one that is cancelled before its first step closes nothing.
        for far in self._connections:
            far.writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._call.done() and not self._call.cancelled():
            self._call.result().writer.transport.abort()

    async def _carry(self, caller: Role, far: Stream) -> None:
        # What the other side of a broken link sees is its end: the engine there has words for that.
        with contextlib.suppress(OSError, TimeoutError):
            try:
                near = await (self._call if caller == self._own else self._reach_engine())
            except BaseException:
                far.writer.transport.abort()
                raise
            await carry(near, far, None if self._on_sent is None else functools.partial(self._on_sent, caller))

    async def _reach_engine(self) -> Stream:
        """The engine begins to listen when it has its peer's certificate, which may be later than the first byte for it."""
        async with asyncio.timeout(self._connect_seconds):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    reader, writer = await asyncio.open_connection(LOOPBACK, self._engine_port, limit=BUFFER_BYTES // 2)
                    return Stream(reader, bounded(writer))
                await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def engine_links(own: Role, connect_seconds: float, on_sent: OnSent | None = None) -> AsyncIterator[EngineLinks]:
    """Stand in the peer's place for the engine of one session; at the end of the block the links are cut.

    Args:
        own: whose engine it is.
        connect_seconds: how long the engine may take to listen, once there is a connection for it.
        on_sent: called with all that this side's engine sends to its peer, which is the engine's own TLS.

    Raises:
        OSError: if there is no port left on loopback.
    """
    reservation, port = reserve_port(LOOPBACK)
    with reservation:
        links = EngineLinks(own, port, connect_seconds, on_sent)
        # Started in a second step: cancelled while it starts, a listener that nobody holds yet would stay open.
        server = await asyncio.start_server(links.called, LOOPBACK, 0, limit=BUFFER_BYTES // 2, start_serving=False)
        links.peer_address = listener_address(server.sockets[0])
        try:
            await server.start_serving()
            yield links
        finally:
            server.close()
            await links.end()


def _is_strange(connection: socket.socket) -> bool:
    """Whether Linux says that the caller of a connection on loopback is another user, or gone; other systems say nothing."""
    with contextlib.suppress(OSError):
        both = (connection.getpeername(), connection.getsockname())
        ends = " ".join(f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}:{port:04X}" for host, port in both)
        calls = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if f" {ends} {ESTABLISHED} " in line]
        return not any(int(call[USER_COLUMN]) == os.geteuid() for call in calls)
    return False


def bounded(writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
    """Make a writer of a link wait once it holds `BUFFER_BYTES`, and have the kernel notice a peer that is gone without a word."""
    writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Address translators forget a connection that is silent for minutes, as the engines may be over a large product.
        for option, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPALIVE", 15)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return writer


async def carry(one: Stream, other: Stream, on_sent: Callable[[bytes], None] | None = None) -> None:
    """Copy both ways, holding no more than the buffers' bounds, until either side ends; then both are closed.

    Args:
        one, other: the two sides.
        on_sent: called with what goes from the one to the other.

    Raises:
        OSError: if a connection broke.
    """
    ways = [asyncio.create_task(_copy(one.reader, other.writer, on_sent)), asyncio.create_task(_copy(other.reader, one.writer))]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            way.result()
        # An engine that has ended has said all there is: that leaves before the end does.
        for stream in (one, other):
            stream.writer.close()
        async with asyncio.timeout(CLOSE_SECONDS):
            await asyncio.gather(one.writer.wait_closed(), other.writer.wait_closed(), return_exceptions=True)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for stream in (one, other):
            stream.writer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, on_sent: Callable[[bytes], None] | None = None) -> None:
    while data := await source.read(BUFFER_BYTES):
        sink.write(data)
        if on_sent is not None:
            on_sent(data)
        await sink.drain()
