"""The two workers of a session without server and client around them, so that a test can stand between their engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from hushlm.calibration.relay import free_ports
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.session.process import Order, PeerOrder, WorkerDiedError, WorkerEvent, WorkerProcess, start_worker
from tests.private.service import Relay


@dataclass
class Outcome:
    """What became of two workers.

    Attributes:
        client, server: their events, as they came.
        client_files, server_files: everything in their scratch folders at the end, certificates and logs among it.
        client_death, server_death: how one ended that did not say how.
    """

    client: list[WorkerEvent] = field(default_factory=list)
    server: list[WorkerEvent] = field(default_factory=list)
    client_files: bytes = b""
    server_files: bytes = b""
    client_death: str = ""
    server_death: str = ""


OnEvent = Callable[[WorkerEvent], None]


async def run_pair(
    export: Path,
    prompt: list[int],
    to_server: Relay,
    to_client: Relay,
    *,
    tls: bool = True,
    silent_seconds: float = 120,
    on_client_event: OnEvent = lambda _: None,
) -> Outcome:
    """One token's session through two relays: the client calls the server through one, the server the client through the other."""
    outcome = Outcome()
    async with contextlib.AsyncExitStack() as stack:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        to_client.target, to_server.target = addresses
        for_client = {"own_address": addresses[0], "peer_address": to_server.address}
        for_server = {"own_address": addresses[1], "peer_address": to_client.address}
        client, client_folder = await stack.enter_async_context(_worker("client", export, len(prompt), tls, silent_seconds, for_client))
        server, server_folder = await stack.enter_async_context(_worker("server", export, len(prompt), tls, silent_seconds, for_server))
        outcome.client.append(await client.next())
        outcome.server.append(await server.next())
        client_certificate, server_certificate = outcome.client[0].certificate, outcome.server[0].certificate
        assert client_certificate
        assert server_certificate
        client.send(PeerOrder(certificate=server_certificate, prompt=prompt))
        server.send(PeerOrder(certificate=client_certificate))
        deaths = await asyncio.gather(_collect(client, outcome.client, on_client_event), _collect(server, outcome.server, lambda _: None))
        outcome.client_death, outcome.server_death = deaths
        outcome.client_files, outcome.server_files = _content(client_folder), _content(server_folder)
    return outcome


@contextlib.asynccontextmanager
async def _worker(
    role: str, export: Path, length: int, tls: bool, silent_seconds: float, addresses: dict[str, str]
) -> AsyncIterator[tuple[WorkerProcess, Path]]:
    async with start_worker() as (worker, scratch):
        order = Order.model_validate(
            {
                "role": role,
                "folder": export / role,
                "scratch": scratch,
                **addresses,
                "fingerprint": load_description(export / role).fingerprint,
                "prompt_length": length,
                "new_tokens": 1,
                "reveal": RevealPolicy(),
                "connect_seconds": 60,
                "silent_seconds": silent_seconds,
                "tls": tls,
            }
        )
        worker.send(order)
        yield worker, scratch


async def _collect(worker: WorkerProcess, events: list[WorkerEvent], on_event: OnEvent) -> str:
    try:
        while not events or events[-1].event not in ("finished", "failed"):
            events.append(await worker.next())
            on_event(events[-1])
    except WorkerDiedError as error:
        return str(error)
    return ""


def _content(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
