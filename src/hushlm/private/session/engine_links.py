"""The two links between the engines, carried inside connections that the client opened to the server's one port.

Each engine calls the other: two links, of one connection each (`link.spawn()` of the engine opens none of its own). An engine knows
sockets of its session's folder only: it listens on one, and calls its peer by another, where this module listens in the peer's place.
What comes there goes, byte for byte, through a connection of the client to the server, and arrives at the peer's own socket:

    engine --peer.sock--> carry == mutual TLS, from the client == carry --engine.sock--> engine

The engines' own TLS goes through unseen, and no process listens on a network but the server, at one port. A connection says with its
first line, a `LinkRequest`, to which session and to which of its links it belongs; the answer is a `LinkAnswer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from hushlm.private.session.messages import SessionError

__all__ = [
    "BUFFER_BYTES",
    "LINK_PROTOCOL",
    "ROLES",
    "EngineLinks",
    "LinkAnswer",
    "LinkRequest",
    "Role",
    "Stream",
    "bounded",
    "carry",
    "engine_address",
    "engine_links",
    "peer_address",
]

LINK_PROTOCOL = "hushlm-link"
"""What TLS names as the protocol of a connection that carries a link (ALPN); every other connection speaks HTTP."""

BUFFER_BYTES = 128 * 1024
"""Of what has come and not gone on yet, what a reader or a writer of a link holds at most before it makes its source wait."""

CLOSE_SECONDS = 1.0
"""How long the last bytes may take to leave once a link has ended."""

RETRY_SECONDS = 0.02

LONGEST_SOCKET_PATH = 103
"""What a socket's address has room for: 103 bytes on macOS, 107 on Linux."""

ENGINE_SOCKET, PEER_SOCKET = "engine.sock", "peer.sock"

Role = Literal["client", "server"]
ROLES: tuple[Role, ...] = ("client", "server")


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


def engine_address(scratch: Path) -> str:
    """Where a session's engine listens.

    Raises:
        SessionError: the folder's name is too long.
    """
    return _address(scratch / ENGINE_SOCKET)


def peer_address(scratch: Path) -> str:
    """Where a session's engine calls its peer.

    Raises:
        SessionError: the folder's name is too long.
    """
    return _address(scratch / PEER_SOCKET)


def _address(path: Path) -> str:
    if len(bytes(path)) > LONGEST_SOCKET_PATH:
        raise SessionError(
            f"The temporary folder's name is too long for a socket in it ({path}, and {LONGEST_SOCKET_PATH} bytes are the limit): "
            "set TMPDIR to a shorter one."
        )
    return f"unix:{path}"


class EngineLinks:
    """The links of one party's engine in one session, made by `engine_links`.

    Attributes:
        joined: the links that have got their connection, by caller.
    """

    def __init__(self, own: Role, scratch: Path, connect_seconds: float) -> None:
        self._own, self._scratch, self._connect_seconds = own, scratch, connect_seconds
        self._call: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self.joined: set[Role] = set()

    def join(self, caller: Role, far: Stream) -> None:
        """Carry a link over this connection, in a task of its own, for as long as both last."""
        assert caller not in self.joined
        self.joined.add(caller)
        self._tasks.append(asyncio.create_task(self._carry(caller, far)))

    def called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the engine's call; a link has one connection, so there is no second one."""
        if self._call.done():
            writer.transport.abort()
        else:
            self._call.set_result(Stream(reader, bounded(writer)))

    async def end(self) -> None:
        """Cut both links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._call.done():
            self._call.result().writer.transport.abort()

    async def _carry(self, caller: Role, far: Stream) -> None:
        # What the other side of a broken link sees is its end: the engine there has words for that.
        with contextlib.suppress(OSError, TimeoutError):
            try:
                near = await (self._call if caller == self._own else self._reach_engine())
            except BaseException:
                far.writer.transport.abort()
                raise
            await carry(near, far)

    async def _reach_engine(self) -> Stream:
        """The engine begins to listen when it has its peer's certificate, which may be later than the first byte for it."""
        async with asyncio.timeout(self._connect_seconds):
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    reader, writer = await asyncio.open_unix_connection(self._scratch / ENGINE_SOCKET, limit=BUFFER_BYTES // 2)
                    return Stream(reader, bounded(writer))
                await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def engine_links(own: Role, scratch: Path, connect_seconds: float) -> AsyncIterator[EngineLinks]:
    """Stand in the peer's place for the engine of one session; at the end of the block the links are cut.

    Args:
        own: whose engine it is.
        scratch: the session's folder, which nobody else can open: sockets in it are out of other users' reach.
        connect_seconds: how long the engine may take to listen, once there is a connection for it.

    Raises:
        OSError: if the socket cannot be made.
    """
    links = EngineLinks(own, scratch, connect_seconds)
    server = await asyncio.start_unix_server(links.called, scratch / PEER_SOCKET, limit=BUFFER_BYTES // 2)
    try:
        yield links
    finally:
        server.close()
        await links.end()


def bounded(writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
    """Make a writer of a link wait once it holds `BUFFER_BYTES`, and have the kernel notice a peer that is gone without a word."""
    writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Address translators forget a connection that is silent for minutes, as the engines may be over a large product.
        for option, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPALIVE", 15)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return writer


async def carry(one: Stream, other: Stream) -> None:
    """Copy both ways, holding no more than the buffers' bounds, until either side ends; then both are closed.

    Raises:
        OSError: if a connection broke.
    """
    ways = [asyncio.create_task(_copy(one.reader, other.writer)), asyncio.create_task(_copy(other.reader, one.writer))]
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


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(BUFFER_BYTES):
        sink.write(data)
        await sink.drain()
