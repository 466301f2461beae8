"""Messages whose end the engine's TLS keeps back go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("spu")

from tests.private.service import Relay, free_port

from hushlm.private.engine import Channel, Party
from hushlm.private.engine.engine_settings import TlsFiles
from hushlm.private.keys.certificates import create_session_certificate

RECEIVE_BYTES, SIZES = 65_536, range(4_244_000, 4_304_000, 4_000)
"""What Linux takes without a reader is 4 MiB and what fits in here: these messages end where it takes no more."""

PAUSE_SECONDS, SILENT_SECONDS = 0.6, 8.0


class _Pausing(Relay):
    """Reads nothing for a while whenever something new comes."""

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        last = time.monotonic()
        with contextlib.suppress(OSError):
            while True:
                select.select([source], [], [])
                if time.monotonic() - last > PAUSE_SECONDS / 6:
                    time.sleep(PAUSE_SECONDS)
                if not (data := source.recv(1 << 20)):
                    return
                sink.sendall(data)
                last = time.monotonic()


def send_sizes(party: Party, addresses: tuple[str, str], tls: TlsFiles) -> None:
    """The client sends a message of each size and waits for the answer to it. The exit code is 0 if all of them arrived."""
    link = Channel(party, addresses, tls, SILENT_SECONDS).context
    try:
        for size in SIZES:
            time.sleep(PAUSE_SECONDS / 4)
            if party is Party.CLIENT:
                link.send(int(Party.SERVER), "a" * size)
                link.recv(int(Party.SERVER))
            else:
                assert len(link.recv(int(Party.CLIENT))) == size
                link.send(int(Party.CLIENT), "b")
    except RuntimeError:
        os._exit(1)
    time.sleep(0.5)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(120)
def test_a_message_that_ends_where_the_system_takes_no_more_arrives(tmp_path: Path) -> None:
    """Without nudges this stops at one of the sizes, on Linux with its usual buffers."""
    assert exit_codes(tmp_path, send_sizes, _Pausing) == [0, 0]


def exit_codes(tmp_path: Path, work: Callable[..., None], kind: type[Relay]) -> list[int | None]:
    """Of both parties, whose engines are linked over TLS through relays of this kind."""
    certificates = []
    for party in Party:
        folder = tmp_path / party.name
        folder.mkdir(mode=0o700)
        certificates.append(create_session_certificate(folder))
    own = [f"127.0.0.1:{free_port()}" for _ in Party]
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in Party]
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(kind(target, listener=listener)) for target, listener in zip(own, listeners, strict=True)]
        processes = []
        for party in Party:
            addresses = [own[party] if place is party else relays[place].address for place in Party]
            tls = certificates[party].tls_files(certificates[party.other].text)
            processes.append(context.Process(target=work, args=(party, tuple(addresses), tls)))
        for process in processes:
            process.start()
        deadline = time.monotonic() + 90
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]
