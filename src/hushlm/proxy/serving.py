"""The proxy as a process: it listens, says when it is ready, and stops when it is told to."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

from hushlm.private.client.client import Client
from hushlm.private.session.addresses import listen, listener_address, parse_address
from hushlm.proxy.application import ProxySettings, application, session_pool
from hushlm.proxy.models import ServedModel

__all__ = ["Proxy", "read_api_key"]

GOODBYE_SECONDS = 5
"""How long those who wait for an answer, and their sessions, have to end when the proxy stops."""


class Proxy:
    """An OpenAI-compatible endpoint in front of one or several private clients.

    Args:
        models: as `application` takes them.
        address: HOST:PORT to listen on; port 0 lets the system choose.
        settings: what the endpoint does.
        expose: whether it may listen on an address that other machines can reach.

    Raises:
        ValueError: if other machines can reach the address and `expose` or an API key is missing; or if the address is taken.
    """

    def __init__(self, models: Client | Sequence[ServedModel], address: str, settings: ProxySettings, expose: bool = False) -> None:
        host, port = parse_address(address)
        if not _is_loopback(host):
            if not expose:
                raise ValueError(
                    f"Other machines can reach {host}, and prompts and answers would cross the network in the clear: "
                    "listen on 127.0.0.1, or add --expose if that network is trusted."
                )
            if settings.api_key is None:
                raise ValueError("A proxy that other machines can reach needs a key: add --api-key-file FILE.")
            settings = replace(settings, hosts=None)
        self._pool = session_pool(settings)
        self._application = application(models, settings, self._pool)
        self._listener = listen(host, port, "--listen")
        self.address = listener_address(self._listener)

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Answer until SIGTERM or SIGINT comes; private sessions that are under way then are given up at both ends."""
        config = uvicorn.Config(
            self._application,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again at the end: to stop when asked to is exit code 0.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _Server(config, on_ready, self._pool.stop).run(sockets=[self._listener])


class _Server(uvicorn.Server):
    """Says when it is ready, and gives up the answers that are under way when it is told to stop."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_stop)


def read_api_key(path: Path) -> str:
    """The key in a file that nobody else can read.

    Raises:
        ValueError: one sentence, if it is missing, too short, or readable by others.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: write a key of your own into it, 16 characters or more.")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by other users: chmod 600 it.")
    key = path.read_text().strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable():
        raise ValueError(f"{path} should hold one key of 16 or more ASCII characters.")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
