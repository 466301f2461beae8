"""Kills, stalls and cuts in every phase: one clear sentence within a stated time, no hang, nothing left behind, the next client served.

The engine's own link notices the death of its peer only by its timeout, and then raises, exits or crashes; that is why both sides
watch the control connection. The times below are limits of these tests on a busy machine of two cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("spu")

from tests.private.by_hand import HandMade, hand_made, valid_request
from tests.private.faults_seen import FaultsSeen, next_is_served
from tests.private.pair import run_pair
from tests.private.service import (
    PROMPTS,
    Relay,
    Serving,
    ask_command,
    assert_one_sentence,
    is_alive,
    run,
    serving,
    session_folders,
    wait_for,
    workers_of,
)

from hushlm.config import ModelShape
from hushlm.private.client.client import Client, ClientSettings, Progress
from hushlm.private.keys.certificates import client_context, load_keys, server_context
from hushlm.private.program.description import PROTOCOL_VERSION
from hushlm.private.session.messages import MAXIMUM_BODY_BYTES, SessionError, shape_of
from hushlm.training import Checkpoint

NOTICED_SECONDS = 12.0
"""From the death of a process to the error at the other side."""

SILENT_SECONDS = 8.0

KILLED = "The server's worker for this session was ended by signal 9, by somebody or for want of memory."

GIVEN_UP = '"outcome": "given_up"'

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every process of this file keeps its session folders."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        yield folder


def new_server(export: Path, keys: Path, log: Path) -> contextlib.AbstractContextManager[Serving]:
    return serving(export, keys, log, "--silent-seconds", str(SILENT_SECONDS), "--connect-seconds", "4")


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, scratch: Path) -> Iterator[Serving]:
    """One for all tests that leave it alive, which is what they are about."""
    with new_server(export_folder, key_folder, scratch / "server.log") as running:
        yield running


def own_workers() -> list[int]:
    """Workers of clients in this process."""
    return workers_of(os.getpid())


def set_up_begins(progress: Progress) -> bool:
    return progress.phase == "set-up"


def waiting(progress: Progress) -> bool:
    return progress.phase == "queued"


def computing(progress: Progress) -> bool:
    return progress.phase == "query" and progress.layer is not None


def break_session(
    server: Serving, export: Path, keys: Path, when: Callable[[Progress], bool], fault: Callable[[], None], settings: ClientSettings
) -> tuple[str, float]:
    """Ask, and do something bad at a moment. Returns: the sentence, and the seconds from the deed to it."""
    done: list[float] = []

    def note(progress: Progress) -> None:
        if not done and when(progress):
            done.append(time.monotonic())
            fault()

    with pytest.raises(SessionError) as failure:
        Client(export / "client", server.address, keys, settings=settings).ask(PROMPTS[0], 4, on_progress=note)
    seconds = time.monotonic() - done[0]
    text = str(failure.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text, seconds


def assert_clean(server: Serving, scratch: Path) -> None:
    """Both sides have ended their workers and removed the session's folders, and the server is there for the next."""
    wait_for(lambda: not server.workers() and not own_workers(), NOTICED_SECONDS, "the end of the workers")
    wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


Survived = Callable[..., None]


@pytest.fixture
def survived(export_folder: Path, key_folder: Path, scratch: Path, faults_seen: FaultsSeen) -> Survived:
    """survived(server, fault, phase, seconds): the session has left nothing behind, and the next client gets a worker."""

    def check(server: Serving, fault: str, phase: str, seconds: float, limit_seconds: float = NOTICED_SECONDS) -> None:
        assert_clean(server, scratch)
        with hand_made(server.address, export_folder, key_folder, scratch) as client:
            served = next_is_served(client)
        faults_seen.add(fault, phase, seconds, limit_seconds, served)
        assert_clean(server, scratch)

    return check


@pytest.mark.two_party
@pytest.mark.parametrize("when", [set_up_begins, computing])
def test_a_killed_worker_of_the_server_is_noticed_and_the_next_client_served(
    server: Serving,
    scratch: Path,
    export_folder: Path,
    key_folder: Path,
    served_checkpoint: Checkpoint,
    when: Callable[[Progress], bool],
    survived: Survived,
) -> None:
    fault = lambda: os.kill(server.worker(), signal.SIGKILL)  # noqa: E731
    text, seconds = break_session(server, export_folder, key_folder, when, fault, ClientSettings())
    assert text == KILLED
    survived(server, "server's worker killed", "computation" if when is computing else "set-up", seconds)
    if when is computing:
        answer = Client(export_folder / "client", server.address, key_folder).ask(PROMPTS[0], 1)
        assert list(answer.tokens) == served_checkpoint.model.greedy(list(answer.prompt_tokens), 1)
        assert_clean(server, scratch)


@pytest.mark.two_party
def test_a_killed_worker_of_the_client_is_noticed(
    server: Serving, scratch: Path, export_folder: Path, key_folder: Path, survived: Survived
) -> None:
    fault = lambda: os.kill(own_workers()[0], signal.SIGKILL)  # noqa: E731
    given_up = server.log.read_text().count(GIVEN_UP)
    text, seconds = break_session(server, export_folder, key_folder, computing, fault, ClientSettings())
    assert "own process was ended by signal 9" in text
    survived(server, "client's worker killed", "computation", seconds)
    assert server.log.read_text().count(GIVEN_UP) > given_up


@pytest.mark.two_party
def test_a_stalled_engine_is_given_up(server: Serving, scratch: Path, export_folder: Path, key_folder: Path, survived: Survived) -> None:
    """SIGSTOP: the peer is there, its connections are open, and nothing comes."""
    fault = lambda: os.kill(server.worker(), signal.SIGSTOP)  # noqa: E731
    _, seconds = break_session(server, export_folder, key_folder, computing, fault, ClientSettings(silent_seconds=SILENT_SECONDS))
    survived(server, "server's engine frozen", "computation", seconds, SILENT_SECONDS + NOTICED_SECONDS)


@pytest.mark.two_party
def test_a_stalled_client_is_given_up(server: Serving, scratch: Path, export_folder: Path, key_folder: Path, survived: Survived) -> None:
    fault = lambda: os.kill(own_workers()[0], signal.SIGSTOP)  # noqa: E731
    text, seconds = break_session(server, export_folder, key_folder, computing, fault, ClientSettings())
    assert text.startswith("The server's worker for this session ")
    survived(server, "client's engine frozen", "computation", seconds, SILENT_SECONDS + NOTICED_SECONDS)


@pytest.mark.two_party
def test_a_killed_server_is_noticed_and_leaves_no_worker(
    scratch: Path, tmp_path: Path, export_folder: Path, key_folder: Path, faults_seen: FaultsSeen
) -> None:
    workers: list[int] = []
    with new_server(export_folder, key_folder, tmp_path / "server.log") as server:

        def fault() -> None:
            workers.append(server.worker())
            server.process.kill()

        text, seconds = break_session(server, export_folder, key_folder, set_up_begins, fault, ClientSettings())
        assert "closed the session: it was stopped or killed, or the network broke" in text
        faults_seen.add("server killed", "set-up", seconds, NOTICED_SECONDS, None)
        wait_for(lambda: not is_alive(workers[0]), NOTICED_SECONDS, "the end of the killed server's worker")
        wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
        assert own_workers() == []


@pytest.mark.two_party
def test_a_frozen_server_is_given_up(server: Serving, scratch: Path, export_folder: Path, key_folder: Path, survived: Survived) -> None:
    """Its control connection is open and says nothing any more. Its worker is frozen too: a quick machine would have answered by then."""
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend([server.process.pid, *server.workers()])
        for process in frozen:
            os.kill(process, signal.SIGSTOP)

    text, seconds = break_session(server, export_folder, key_folder, set_up_begins, freeze, ClientSettings(alive_seconds=SILENT_SECONDS))
    assert len(frozen) == 2
    assert "has been silent for 8 s" in text
    for process in frozen:
        os.kill(process, signal.SIGCONT)
    survived(server, "server frozen", "set-up", seconds, SILENT_SECONDS + NOTICED_SECONDS)


@pytest.mark.two_party
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_client_that_ends_takes_its_session_along(
    server: Serving, scratch: Path, export_folder: Path, key_folder: Path, sent: signal.Signals, code: int, survived: Survived
) -> None:
    process = subprocess.Popen(
        ask_command(PROMPTS[0], export_folder, key_folder, server.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        server.worker()
        wait_for(lambda: bool(workers_of(process.pid)), 10, "the client's worker")
        [worker] = workers_of(process.pid)
        time.sleep(3)
        start = time.monotonic()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=NOTICED_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert "Traceback" not in errors
    wait_for(lambda: not is_alive(worker), NOTICED_SECONDS, "the end of the client's worker")
    wait_for(lambda: not server.workers(), NOTICED_SECONDS, "the end of the server's worker")
    seconds = time.monotonic() - start
    wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
    survived(server, f"client ended by {sent.name}", "set-up", seconds)


@pytest.mark.two_party
def test_a_caller_may_stop_listening(server: Serving, scratch: Path, export_folder: Path, key_folder: Path) -> None:
    client = Client(export_folder / "client", server.address, key_folder)

    class EnoughError(Exception):
        pass

    def note(progress: Progress) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        next(client.stream([1, 2, 3], 2, on_progress=note))
    assert_clean(server, scratch)


@pytest.mark.two_party
def test_the_command_says_what_became_of_the_server(server: Serving, scratch: Path, export_folder: Path, key_folder: Path) -> None:
    def kill() -> None:
        os.kill(server.worker(60), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = run(ask_command(PROMPTS[0], export_folder, key_folder, server.address), 90)
    thread.join()
    assert_one_sentence(result, KILLED)
    assert_clean(server, scratch)


@pytest.mark.two_party
def test_a_cut_between_the_engines_is_one_sentence_at_each(export_folder: Path, scratch: Path) -> None:
    """Only the engines' connections break: nobody is dead, and the control connection stands."""
    with Relay() as to_server, Relay() as to_client:

        def cut() -> None:
            for relay in (to_server, to_client):
                relay.target = ""
                relay.cut()

        outcome = asyncio.run(
            run_pair(
                export_folder,
                [1, 2, 3],
                to_server,
                to_client,
                silent_seconds=SILENT_SECONDS,
                on_client_event=lambda event: cut() if event.event == "ready" else None,
            )
        )
    for events, death in ((outcome.client, outcome.client_death), (outcome.server, outcome.server_death)):
        # The engine may crash; its parent then says so.
        assert death.startswith(("ended with code", "was ended by signal")) or events[-1].kind == "peer", (events[-1], death)
        assert events[-1].event != "finished"
    assert session_folders(scratch) == []


@pytest.fixture
def by_hand(key_folder: Path) -> Iterator[httpx.Client]:
    """A client without an engine."""
    with httpx.Client(verify=client_context(load_keys(key_folder, "client")), trust_env=False, timeout=60) as http:
        yield http


@pytest.fixture
def request_body(export_folder: Path, tmp_path: Path) -> bytes:
    """A valid request for an engine that never comes."""
    return json.dumps(valid_request(export_folder, tmp_path)).encode()


def test_a_client_whose_engine_never_connects_is_given_up(
    server: Serving, scratch: Path, by_hand: httpx.Client, request_body: bytes, survived: Survived
) -> None:
    start = time.monotonic()
    with by_hand.stream("POST", f"https://{server.address}/sessions", content=request_body) as response:
        events = [json.loads(line) for line in response.iter_lines()]
    assert [event["event"] for event in events if event["event"] != "alive"] == ["accepted", "failed"]
    assert "did not open within 4 s" in events[-1]["error"]
    survived(server, "client's engine never connects", "set-up", time.monotonic() - start, 4 + 20)


def test_a_certificate_that_is_none_fails_its_own_session_only(
    server: Serving, scratch: Path, by_hand: httpx.Client, request_body: bytes, survived: Survived
) -> None:
    start = time.monotonic()
    body = json.dumps(json.loads(request_body) | {"engine_certificate": "no certificate"}).encode()
    with by_hand.stream("POST", f"https://{server.address}/sessions", content=body) as response:
        events = [json.loads(line) for line in response.iter_lines()]
    assert events[-1] == {
        "event": "failed",
        "error": "The server's worker for this session failed: see the server's log.",
        "bundle_gone": False,
    }
    assert "not one certificate in PEM" in server.log.read_text()
    survived(server, "session certificate that is none", "handshake", time.monotonic() - start)


def test_a_client_that_hangs_up_frees_its_place(
    export_folder: Path, key_folder: Path, tmp_path: Path, by_hand: httpx.Client, request_body: bytes, survived: Survived
) -> None:
    # Time enough to look at the worker before it gives up waiting for the client's engine.
    with serving(export_folder, key_folder, tmp_path / "server.log", "--connect-seconds", "100") as server:
        url = f"https://{server.address}"
        with by_hand.stream("POST", f"{url}/sessions", content=request_body) as response:
            lines = response.iter_lines()  # kept, or its end would end the connection
            assert next(event for event in map(json.loads, lines) if event["event"] != "alive")["event"] == "accepted"
            worker = server.worker()
            assert by_hand.get(f"{url}/health").json()["sessions"] == 1
        start = time.monotonic()
        wait_for(lambda: not is_alive(worker), NOTICED_SECONDS, "the end of the worker")
        wait_for(lambda: by_hand.get(f"{url}/health").json()["sessions"] == 0, 5, "the place")
        survived(server, "client hangs up", "handshake", time.monotonic() - start)


def test_weights_that_are_damaged_while_serving_fail_the_session(
    export_folder: Path,
    key_folder: Path,
    scratch: Path,
    tmp_path: Path,
    by_hand: httpx.Client,
    request_body: bytes,
    faults_seen: FaultsSeen,
) -> None:
    copy = tmp_path / "export"
    shutil.copytree(export_folder, copy)
    with serving(copy, key_folder, tmp_path / "server.log") as server:
        weights = copy / "server" / "weights.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        start = time.monotonic()
        with by_hand.stream("POST", f"https://{server.address}/sessions", content=request_body) as response:
            events = [json.loads(line) for line in response.iter_lines()]
        assert events[-1] == {
            "event": "failed",
            "error": "The server's worker for this session failed: see the server's log.",
            "bundle_gone": False,
        }
        assert "is damaged or was altered" in server.log.read_text()
        faults_seen.add("weights damaged on disk", "handshake", time.monotonic() - start, NOTICED_SECONDS, None)
        assert_clean(server, scratch)


@contextlib.contextmanager
def secure_connection(server: Serving, key_folder: Path) -> Iterator[ssl.SSLSocket]:
    host, _, port = server.address.partition(":")
    with (
        socket.create_connection((host, int(port)), 30) as plain,
        client_context(load_keys(key_folder, "client")).wrap_socket(plain, server_hostname=host) as secure,
    ):
        yield secure


def test_a_body_that_never_comes_is_not_waited_for(server: Serving, key_folder: Path, by_hand: httpx.Client) -> None:
    with secure_connection(server, key_folder) as secure:
        secure.sendall(b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        start = time.monotonic()
        answer = secure.recv(4096)
        assert 9 < time.monotonic() - start < 15
    assert answer.startswith(b"HTTP/1.1 408")
    assert by_hand.get(f"https://{server.address}/health").json()["sessions"] == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 200,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"y" * (2 * MAXIMUM_BODY_BYTES) + b"\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b" " * 100_000,
        b"POST /sessions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1000\r\n"
        + b" " * 4096
        + b"\r\n" * 1
        + b"4001\r\n"
        + b" " * 0x4001,
    ],
    ids=["zeros", "version", "long header", "negative length", "long body", "long chunks"],
)
def test_malformed_http_is_refused_and_survived(
    server: Serving, key_folder: Path, by_hand: httpx.Client, sent: bytes, request: pytest.FixtureRequest, survived: Survived
) -> None:
    start = time.monotonic()
    with secure_connection(server, key_folder) as secure:
        with contextlib.suppress(OSError):
            secure.sendall(sent)
        with contextlib.suppress(OSError):
            assert secure.recv(4096)[:10] in (b"", b"HTTP/1.1 4")
    seconds = time.monotonic() - start
    assert by_hand.get(f"https://{server.address}/health").json() == {"status": "ok", "sessions": 0, "workers": 1}
    assert server.workers() == []
    survived(server, f"malformed HTTP: {request.node.callspec.id}", "handshake", seconds)


ACCEPTED = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "ended the connection without an answer"),
        (b"", "ended the connection without an answer"),
        (None, "did not answer the request within 2 s"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\nhtml", "refused: it gave no reason."),
        (b'HTTP/1.1 400 No\r\ncontent-length: 17\r\n\r\n{"error": "No\x1b."}', "refused: "),
        (ACCEPTED, "ended the session without a word"),
        (ACCEPTED + b"hello\n", "not an event of this protocol"),
        (ACCEPTED + b'{"event": "alive", "weights": [1]}\n', "not an event of this protocol"),
        (ACCEPTED + b" " * (MAXIMUM_BODY_BYTES + 1), "more than 16384 bytes in one piece"),
        (ACCEPTED + b'{"event": "finished"}\n', "finished before the answer was complete"),
        (ACCEPTED + b'{"event": "failed", "error": "Out of\\u001b[2Jorder."}\n', "Out of?[2Jorder."),
        (
            ACCEPTED
            + json.dumps(
                {
                    "event": "accepted",
                    "session": "1",
                    "protocol_version": PROTOCOL_VERSION,
                    "engine_version": "Other",
                    "architecture": "SM",
                    "shape": shape_of(ModelShape()),
                    "fingerprint": "0" * 64,
                    "prompt_length": 1,
                    "new_tokens": 1,
                    "reveal": {"kind": "token"},
                    "limits": {"new_tokens": 1, "session_seconds": 1, "reveal": {"kind": "token"}},
                    "link_token": "t",
                    "engine_certificate": "pem",
                    "kind": "ask",
                    "answers": 0,
                    "bundle": None,
                    "held": None,
                    "draft": 0,
                    "network": None,
                    "near": True,
                    "threads": 2,
                    "transfers": "ferret",
                }
            ).encode()
            + b"\n",
            "The server's engine is Other",
        ),
    ],
    ids=["ssh", "nothing", "silence", "no reason", "escape", "no event", "text", "more", "endless", "finished", "failed", "engine"],
)
def test_a_server_that_does_not_keep_the_protocol_is_named(
    export_folder: Path,
    key_folder: Path,
    scratch: Path,
    answer: bytes | None,
    part: str,
    request: pytest.FixtureRequest,
    faults_seen: FaultsSeen,
) -> None:
    """With the right certificate, for what follows it."""
    context = server_context(load_keys(key_folder, "server"))
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
            received = secure.recv(1 << 16)
            while not received.endswith(b"}"):
                received += secure.recv(1 << 16)
            if answer is None:
                done.wait(20)
            else:
                secure.sendall(answer)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = "{}:{}".format(*listener.getsockname())
        client = Client(export_folder / "client", address, key_folder, settings=ClientSettings(alive_seconds=2))
        start = time.monotonic()
        with pytest.raises(SessionError) as failure:
            client.ask(PROMPTS[0], 1)
        seconds = time.monotonic() - start
        done.set()
        thread.join()
    assert part in str(failure.value), str(failure.value)
    assert str(failure.value).isprintable()
    assert workers_of(os.getpid()) == []
    assert session_folders(scratch) == []
    faults_seen.add(f"server answers: {request.node.callspec.id}", "handshake", seconds, NOTICED_SECONDS, None)


@pytest.fixture
def busy(export_folder: Path, key_folder: Path, scratch: Path, tmp_path: Path) -> Iterator[tuple[Serving, HandMade]]:
    """A server whose only worker waits for the engine of a client that has none."""
    with (
        serving(export_folder, key_folder, tmp_path / "server.log", "--connect-seconds", "100") as server,
        hand_made(server.address, export_folder, key_folder, scratch) as client,
        client.session() as events,
    ):
        assert next(events)["event"] == "accepted"
        yield server, client


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_goes_while_a_client_waits_is_noticed(
    busy: tuple[Serving, HandMade], scratch: Path, export_folder: Path, key_folder: Path, sent: signal.Signals, faults_seen: FaultsSeen
) -> None:
    server, _ = busy
    fault = lambda: server.process.send_signal(sent)  # noqa: E731
    settings = ClientSettings(alive_seconds=SILENT_SECONDS)
    text, seconds = break_session(server, export_folder, key_folder, waiting, fault, settings)
    assert ("closed the session" if sent == signal.SIGKILL else "has been silent for 8 s") in text
    what = "server killed" if sent == signal.SIGKILL else "server frozen"
    faults_seen.add(what, "queue", seconds, SILENT_SECONDS + NOTICED_SECONDS, None)
    wait_for(lambda: own_workers() == [], NOTICED_SECONDS, "the end of the client's worker")


def test_a_client_that_is_killed_while_it_waits_leaves_the_queue(
    busy: tuple[Serving, HandMade], scratch: Path, export_folder: Path, key_folder: Path, faults_seen: FaultsSeen
) -> None:
    server, client = busy
    process = subprocess.Popen(
        ask_command(PROMPTS[0], export_folder, key_folder, server.address), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: client.get("/ready").json()["queue"] == 1, 30, "the second session in the queue")
        [worker] = workers_of(process.pid)
        start = time.monotonic()
        process.kill()
        process.wait()
        wait_for(lambda: client.get("/ready").json()["queue"] == 0, NOTICED_SECONDS, "an empty queue")
        seconds = time.monotonic() - start
        wait_for(lambda: not is_alive(worker), NOTICED_SECONDS, "the end of the client's worker")
    finally:
        process.kill()
        process.wait()
    assert client.get("/health").json()["sessions"] == 1
    faults_seen.add("client killed", "queue", seconds, NOTICED_SECONDS, None)


def test_a_server_without_room_for_a_session_folder_says_so(
    export_folder: Path, key_folder: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults_seen: FaultsSeen
) -> None:
    """Its temporary folder is gone; when there is one again, so is the service."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        running = serving(export_folder, key_folder, tmp_path / "server.log")
        server = running.__enter__()
    try:
        with hand_made(server.address, export_folder, key_folder, scratch) as client:
            assert next_is_served(client)
            wait_for(lambda: session_folders(folder) == [], 10, "the end of the session folder")
            folder.rmdir()
            start = time.monotonic()
            with client.session() as events:
                assert list(events)[-1] == {
                    "event": "failed",
                    "error": "The server could not start a worker for this session: see the server's log.",
                    "bundle_gone": False,
                }
            seconds = time.monotonic() - start
            assert "no worker could be started" in server.log.read_text()
            folder.mkdir()
            faults_seen.add("no room for a session folder", "handshake", seconds, NOTICED_SECONDS, next_is_served(client))
    finally:
        running.__exit__(None, None, None)
