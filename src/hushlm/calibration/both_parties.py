"""Running the same work at two real parties, each in a process of its own, on loopback or through an emulated network."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection, wait
from typing import Any

from hushlm.calibration.relay import Link, Relay, SwitchableLink, free_ports, relayed
from hushlm.private.engine import Channel, Engine, EngineSettings, Party

__all__ = ["Link", "run_both", "stream_both"]

Work = Callable[..., Any]
StreamedWork = Callable[..., Iterator[Any]]

CONNECT_SECONDS = 120.0


def _party(
    party: Party, addresses: tuple[str, str], settings: EngineSettings, work: StreamedWork, arguments: tuple[Any, ...], to: Connection
) -> None:
    # Two processes on a busy machine may start a minute apart.
    engine = Engine(party, settings, Channel(party, addresses, None, connect_seconds=CONNECT_SECONDS))
    for result in work(engine, *arguments):
        to.send((result,))
    to.send(())
    # The peer may still need this party's listener.
    to.recv()


def stream_both(
    work: StreamedWork, arguments: tuple[Any, ...], settings: EngineSettings, link: Link | SwitchableLink | None = None
) -> Iterator[tuple[Any, Any]]:
    """Run the generator `work(engine, *arguments)` at both parties, each in a process of its own.

    Args:
        work: a function that the processes can import from its module; it must yield equally often at both parties.
        arguments: what the function is called with after the engine.
        settings: the engine's settings.
        link: the network to emulate by a relay, or None for plain loopback; one that can be switched may be among `arguments`, too.

    Yields:
        What the client and the server yielded, pair by pair, as soon as both have.

    Raises:
        RuntimeError: if a party dies.
    """
    client, server, to_client, to_server = free_ports(4)
    if link is None:
        to_client, to_server = client, server
        network: Any = nullcontext()
    else:
        relays = (Relay(to_server, server), Relay(to_client, client))
        network = relayed(relays, SwitchableLink(link) if isinstance(link, Link) else link)
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
            while results := _from_all(pipes):
                of_client, of_server = results
                yield of_client, of_server
        except (EOFError, ConnectionResetError) as error:
            raise RuntimeError("A party died.") from error
        finally:
            for process in processes:
                process.kill()
                process.join()


def _from_all(pipes: Sequence[Connection]) -> tuple[Any, ...]:
    """The next result of each; whichever party dies is noticed at once, although the other one may wait for it for minutes."""
    results: dict[Connection, tuple[Any, ...]] = {}
    while len(results) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in results]):
            assert isinstance(pipe, Connection)
            results[pipe] = pipe.recv()
    return tuple(result for pipe in pipes for result in results[pipe])


def _once(engine: Engine, work: Work, *arguments: Any) -> Iterator[Any]:
    yield work(engine, *arguments)


def run_both(
    work: Work, arguments: tuple[Any, ...], settings: EngineSettings, link: Link | SwitchableLink | None = None
) -> tuple[Any, Any]:
    """Run `work(engine, *arguments)` once at both parties; the arguments are those of `stream_both`.

    Returns:
        The results of the client and of the server.

    Raises:
        RuntimeError: if a party dies.
    """
    (results,) = stream_both(_once, (work, *arguments), settings, link)
    return results
