"""Handshakes that are none: ten thousand altered requests, strangers, and connections that say nothing or only slowly."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")

from tests.private.by_hand import HandMade, hand_made, valid_request
from tests.private.faults_seen import FaultsSeen, next_is_served, stopwatch
from tests.private.service import Serving, serving

from hushlm.private.keys.certificates import add_client, client_context, create_keys, load_keys
from hushlm.private.server.listeners import HANDSHAKE_SECONDS, HEADER_SECONDS
from hushlm.private.server.service import REQUEST_SECONDS, PrivateServer
from hushlm.private.session.messages import MAXIMUM_BODY_BYTES

INPUTS = 10_000
TLS_INPUTS = 300
SOON_SECONDS = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(export_folder, key_folder, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(server: Serving, export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandMade]:
    """One with every right."""
    with hand_made(server.address, export_folder, key_folder, tmp_path_factory.mktemp("client")) as made:
        yield made


def altered(generator: random.Random, request: bytes) -> bytes:
    """The request with a few bytes, a stretch or a value changed, or something else altogether."""
    match generator.randrange(6):
        case 0:
            data = bytearray(request)
            for _ in range(generator.randint(1, 8)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            return bytes(data)
        case 1:
            start = generator.randrange(len(request))
            return request[:start] + request[start + generator.randint(1, 40) :]
        case 2:
            start, length = generator.randrange(len(request)), generator.randint(1, 40)
            return request[: start + length] + request[start:]
        case 3 if request.startswith(b"{"):
            values = json.loads(request)
            name = generator.choice(sorted(values))
            values[name] = generator.choice(
                [None, True, -1, 0, 2**70, 1e308, "", "x" * 20_000, "\0\x1b[2J", [], {}, [dict(values)], values["shape"], values["reveal"]]
            )
            return json.dumps(values).encode()
        case 4:
            return generator.randbytes(generator.choice([0, 1, 10, 300, MAXIMUM_BODY_BYTES + 1]))
        case _:
            return generator.choice([b"[", b'{"a":', b'"', b"9", b"\xff\xfe", b" "]) * generator.randint(1, 3000)


async def post(application: Any, body: bytes) -> tuple[int, bytes]:
    """What the application answers, over no socket; the body comes in pieces."""
    pieces = [body[start : start + 4000] for start in range(0, len(body), 4000)] or [b""]
    answer, status = bytearray(), 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        answer.extend(message.get("body", b""))

    scope = {"type": "http", "method": "POST", "path": "/sessions", "headers": [], "query_string": b"", "client": ("127.0.0.1", 1)}
    await application(scope | {"server": ("127.0.0.1", 2), "root_path": "", "scheme": "https", "state": {}}, receive, send)
    return status, bytes(answer)


def test_ten_thousand_altered_requests_are_refused_in_one_sentence_each(
    export_folder: Path, key_folder: Path, tmp_path: Path, faults_seen: FaultsSeen
) -> None:
    """Those that are still valid come to a server that stops, so that no session is opened for them."""
    server = PrivateServer(export_folder / "server", "127.0.0.1:0", key_folder)
    server._admission.close()
    request = json.dumps(valid_request(export_folder, tmp_path)).encode()
    generator, application = random.Random(0), server.application()
    longest, statuses = 0.0, {400: 0, 503: 0}

    async def throw() -> None:
        nonlocal longest
        assert (await post(application, request))[0] == 503
        for _ in range(INPUTS):
            body = altered(generator, request)
            with stopwatch() as taken:
                status, answer = await post(application, body)
            longest = max(longest, *taken)
            sentence = json.loads(answer)["error"]
            assert list(json.loads(answer)) == ["error"]
            assert sentence.endswith(".")
            assert sentence.isprintable()
            assert 10 < len(sentence) < 600
            statuses[status] += 1

    asyncio.run(throw())
    server.close()
    assert server.running == 0
    assert statuses[400] + statuses[503] == INPUTS
    assert statuses[400] > INPUTS / 2
    faults_seen.add(f"{INPUTS:,} altered requests (the slowest)", "handshake", longest, SOON_SECONDS, None)


@contextlib.contextmanager
def connected(server: Serving, context: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """A connection, with TLS if there is a context; it may break at its end."""
    host, _, port = server.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as plain:
        if context is None:
            yield plain
        else:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                yield secure


def ended(connection: socket.socket, seconds: float) -> bytes:
    """What comes until the server ends the connection."""
    connection.settimeout(seconds)
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := connection.recv(4096):
            received += data
    return received


def open_descriptors(server: Serving) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_hundreds_of_altered_requests_over_tls_leave_the_server_as_it_was(
    server: Serving, client: HandMade, key_folder: Path, faults_seen: FaultsSeen
) -> None:
    """The whole of HTTP altered, header and body; what is still a valid request opens a session and is hung up on."""
    generator, context = random.Random(1), client_context(load_keys(key_folder, "client"))
    body = json.dumps(client.request).encode()
    header = f"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    descriptors = open_descriptors(server)
    longest = 0.0
    for _ in range(TLS_INPUTS):
        sent = altered(generator, header) + body if generator.random() < 0.5 else header + altered(generator, body)
        with stopwatch() as taken, contextlib.suppress(ConnectionError, ssl.SSLError), connected(server, context) as connection:
            connection.sendall(sent)
            connection.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
                assert not answer or answer.startswith(b"HTTP/1.1 ")
        longest = max(longest, *taken)
    assert server.process.poll() is None
    assert client.get("/health").json()["status"] == "ok"
    deadline = time.monotonic() + 20
    while (now := open_descriptors(server)) > descriptors + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert now <= descriptors + 2
    faults_seen.add(f"{TLS_INPUTS} altered requests over TLS (the slowest)", "handshake", longest, SOON_SECONDS, next_is_served(client))


def _strangers(keys: Path, folder: Path) -> dict[str, ssl.SSLContext | None]:
    """By what is wrong with them."""
    create_keys(folder / "other", ["127.0.0.1"])
    ours = folder / "ours"
    shutil.copytree(keys, ours)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=9)
    add_client(ours, "late", days=1, now=past)

    def context(certificate: Path | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(keys / "authority.pem"))
        if certificate is not None:
            made.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return made

    old = context(keys / "client.pem")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    return {
        "no certificate": context(None),
        "certificate of another authority": context(folder / "other" / "client.pem"),
        "expired certificate": context(ours / "late.pem"),
        "a server's certificate": context(keys / "server.pem"),
        "TLS 1.1": old,
        "no TLS": None,
    }


def test_strangers_get_nothing_but_a_handshake(
    server: Serving, client: HandMade, key_folder: Path, tmp_path: Path, faults_seen: FaultsSeen
) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    for fault, context in _strangers(key_folder, tmp_path).items():
        received = b""
        with stopwatch() as taken, contextlib.suppress(ConnectionError, ssl.SSLError), connected(server, context) as connection:
            connection.sendall(request)
            received = ended(connection, 20)
        assert b"HTTP/1.1" not in received, fault
        faults_seen.add(f"client with {fault}", "TLS", taken[0], SOON_SECONDS, client.get("/health").status_code == 200)
    with connected(server, client_context(load_keys(key_folder, "client"))) as connection:
        connection.sendall(request)
        assert ended(connection, 20).startswith(b"HTTP/1.1 200")


def trickle(connection: socket.socket, data: bytes, seconds: float) -> None:
    """A byte a second, until the server has enough of it."""
    deadline = time.monotonic() + seconds
    connection.settimeout(1)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for byte in data:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    return
            assert time.monotonic() < deadline, "the server is too patient"


def test_slow_ones_are_cut_off_and_hold_up_nobody(server: Serving, client: HandMade, key_folder: Path, faults_seen: FaultsSeen) -> None:
    """Many at a time, each as slow as can be; a client in its right mind is served among them."""
    context = client_context(load_keys(key_folder, "client"))
    header = b"POST /sessions HTTP/1.1\r\nhost: x\r\nx-slow: " + b"y" * 100
    cases: dict[str, tuple[float, ssl.SSLContext | None, bytes]] = {
        "connection that says nothing": (HANDSHAKE_SECONDS, None, b""),
        "TLS handshake byte by byte": (HANDSHAKE_SECONDS, None, b"\x16\x03\x01\x02\x00" + b"\x01" * 100),
        "header byte by byte": (HEADER_SECONDS, context, header),
        "body byte by byte": (HEADER_SECONDS + REQUEST_SECONDS, context, b""),
    }

    async def one(fault: str) -> float:
        _, tls, data = cases[fault]

        def play() -> float:
            with stopwatch() as taken, contextlib.suppress(ConnectionError, ssl.SSLError), connected(server, tls) as connection:
                if fault.startswith("body"):
                    connection.sendall(b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
                    data_left = b"{" + b" " * 99
                else:
                    data_left = data
                if data_left:
                    trickle(connection, data_left, 60)
                else:
                    ended(connection, 60)
            return taken[0]

        return await asyncio.to_thread(play)

    async def all_at_once() -> tuple[dict[str, float], bool]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(44))
        slow = {fault: [asyncio.create_task(one(fault)) for _ in range(10)] for fault in cases}
        await asyncio.sleep(1)
        served = await asyncio.to_thread(next_is_served, client)
        return {fault: max([await task for task in tasks]) for fault, tasks in slow.items()}, served

    taken, served = asyncio.run(all_at_once())
    for fault, seconds in taken.items():
        assert seconds > 5, f"{fault} was cut off after {seconds:.1f} s"
        faults_seen.add(f"ten of: {fault}", "handshake", seconds, cases[fault][0] + SOON_SECONDS, served)
    assert client.get("/health").json()["sessions"] <= 1
