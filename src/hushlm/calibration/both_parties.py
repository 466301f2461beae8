"""Real runs behind the numbers: the same work in two processes, on loopback or through a relay that delays and limits."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hushlm.calibration.relay import Relay, free_ports, relayed
from hushlm.private.engine import Channel, Engine, EngineSettings, Party

__all__ = ["Link", "run_both"]

Work = Callable[..., Any]


@dataclass(frozen=True)
class Link:
    """A network to emulate."""

    round_trip_seconds: float
    bits_per_second: float


def _party(
    party: Party, addresses: tuple[str, str], settings: EngineSettings, work: Work, arguments: tuple[Any, ...], to: Connection
) -> None:
    engine = Engine(party, settings, Channel(party, addresses, None))
    to.send(work(engine, *arguments))
    # The peer may still need this party's listener.
    to.recv()


def run_both(work: Work, arguments: tuple[Any, ...], settings: EngineSettings, link: Link | None = None) -> tuple[Any, Any]:
    """Run `work(engine, *arguments)` at both parties.

    Args:
        work: a module's function, so that the processes can find it.
        link: through a relay of these settings; plain loopback if None.

    Returns: the results of client and server.

    Raises:
        RuntimeError: if a party dies.
    """
    client, server, to_client, to_server = free_ports(4)
    if link is None:
        to_client, to_server = client, server
        network: Any = nullcontext()
    else:
        relays = (Relay(to_server, server), Relay(to_client, client))
        network = relayed(relays, link.round_trip_seconds, link.bits_per_second)
    addresses = {
        Party.CLIENT: (f"127.0.0.1:{client}", f"127.0.0.1:{to_server}"),
        Party.SERVER: (f"127.0.0.1:{to_client}", f"127.0.0.1:{server}"),
    }
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    with network:
        try:
            for party in Party:
                here, there = context.Pipe()
                process = context.Process(target=_party, args=(party, addresses[party], settings, work, arguments, there), daemon=True)
                process.start()
                there.close()
                pipes.append(here)
                processes.append(process)
            return pipes[0].recv(), pipes[1].recv()
        except EOFError as error:
            raise RuntimeError("A party died.") from error
        finally:
            for process in processes:
                process.kill()
                process.join()
