"""Connections for the engines' links at the server: whose they are, and to which session they belong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import ValidationError

from hushlm.private.server.listeners import HEADER_SECONDS, Peer
from hushlm.private.server.logs import log
from hushlm.private.session.engine_links import EngineLinks, LinkAnswer, LinkRequest, Stream, bounded, engine_links

__all__ = ["LinkDesk"]

REFUSAL = "This connection belongs to no session of this client that waits for it."
"""One sentence for every reason: it tells a stranger nothing of what there is."""

COLLECT_SECONDS = 1.0
"""After the end of a session, when its connections have ended, too."""


@dataclass(frozen=True)
class _Session:
    """A session that waits for its links, or has them."""

    fingerprint: str
    links: EngineLinks


class LinkDesk:
    """Brings connections together with the sessions that wait for them."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._receiving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def session(self, fingerprint: str, connect_seconds: float) -> AsyncIterator[tuple[str, EngineLinks]]:
        """Expect a session's links for as long as the block lasts; at its end they are cut.

        Args:
            fingerprint: of the certificate with which the session was asked for: no other gets a link.
            connect_seconds: how long the engine may take to listen.

        Yields:
            The token by which the client names the session, and its links.

        Raises:
            OSError: if there is no port left on loopback.
        """
        token = secrets.token_urlsafe(32)
        async with engine_links("server", connect_seconds) as links:
            self._sessions[token] = _Session(fingerprint, links)
            try:
                yield token, links
            finally:
                del self._sessions[token]
                # TLS connections are cycles of a quarter of a megabyte each: left to the collector's own time, they pile up.
                asyncio.get_running_loop().call_later(COLLECT_SECONDS, gc.collect)

    def receive(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Find the session of a connection and hand it over; whoever says nothing, or nothing fitting, is cut off."""
        task = asyncio.create_task(self._receive(peer, reader, writer))
        self._receiving.add(task)
        task.add_done_callback(self._receiving.discard)

    async def _receive(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                request = await _read_request(reader)
                session = None if request is None else self._sessions.get(request.token)
                if request is None or session is None or session.fingerprint != peer.fingerprint or request.caller in session.links.joined:
                    log.info("refused a link", client=peer.name, address=peer.address)
                    writer.write(_encode(LinkAnswer(error=REFUSAL)))
                    writer.close()
                    await writer.wait_closed()
                    return
                # Before anything is awaited, so that no second connection gets the same link; the answer goes out before what it carries.
                writer.write(_encode(LinkAnswer()))
                session.links.join(request.caller, Stream(reader, bounded(writer)))
        except (OSError, TimeoutError):
            writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> LinkRequest | None:
    try:
        return LinkRequest.model_validate_json(await reader.readline(), strict=True)
    except (ValidationError, ValueError):  # ValueError: the line is longer than the reader's limit
        return None


def _encode(answer: LinkAnswer) -> bytes:
    return answer.model_dump_json().encode() + b"\n"
