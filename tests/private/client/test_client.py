"""The client against servers that have no place, and what it expects of a question before it is asked."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("spu")
pytest.importorskip("httpx")

from hypothesis import given
from hypothesis import strategies as st

import hushlm.private.client.client as client_module
from hushlm.cli.main import main
from hushlm.config import ModelShape
from hushlm.private.bundles import BundleInfo
from hushlm.private.client.client import Client, ClientSettings, Progress
from hushlm.private.client.control_channel import UnavailableError
from hushlm.private.client.prepared_shelf import ClientShelf
from hushlm.private.client.retries import Retries
from hushlm.private.engine.traffic import Traffic
from hushlm.private.keys.certificates import load_keys, server_context
from hushlm.private.prepared.placing import PlacementError
from hushlm.private.program.description import RevealPolicy
from hushlm.private.session.messages import SessionError, UnaskableError
from hushlm.report.question import describe

SOON = Retries(limit=2, first_seconds=0.01)
BUSY = b'HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 24\r\n\r\n{"error": "Full house."}'
USED = b'HTTP/1.1 429 Enough\r\ncontent-length: 26\r\n\r\n{"error": "Enough today."}'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n"


@contextmanager
def answering(context: ssl.SSLContext, answers: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A TLS server that gives one answer a connection; yields its address and the requests so far."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                received = secure.recv(1 << 16)
                while not received.endswith(b"}"):
                    received += secure.recv(1 << 16)
                requests.append(received)
                secure.sendall(answer)
                secure.unwrap()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def client_of(export: Path, keys: Path, address: str, retries: Retries = SOON) -> Client:
    return Client(export / "client", address, keys, settings=ClientSettings(alive_seconds=5, retries=retries))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("answer", "sentence"), [(BUSY, "refused: Full house."), (USED, "refused: Enough today.")])
def test_a_server_without_a_place_is_asked_again(export_folder: Path, key_folder: Path, answer: bytes, sentence: str) -> None:
    context = server_context(load_keys(key_folder, "server"))
    seen: list[str] = []
    with answering(context, [answer] * 4) as (address, requests), pytest.raises(UnavailableError, match=sentence):
        client_of(export_folder, key_folder, address).ask("a", 1, on_progress=lambda progress: seen.append(progress.phase))
    assert len(requests) == 1 + SOON.limit
    assert seen == ["waiting"] * SOON.limit
    # Each attempt is a session of its own.
    assert len({request.rpartition(b"engine_certificate")[2] for request in requests}) == len(requests)


@pytest.mark.timeout(180)
def test_a_server_that_is_not_there_is_asked_again(export_folder: Path, key_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    seen: list[Progress] = []
    with pytest.raises(UnavailableError, match="No server can be reached"):
        asyncio.run(client_of(export_folder, key_folder, address).ask_async("a", 1, on_progress=seen.append))
    assert len(seen) == SOON.limit
    assert "asking again" in describe(seen[0])


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b'HTTP/1.1 400 No\r\ncontent-length: 16\r\n\r\n{"error": "No."}', "refused: No."),
        (STREAM + b'{"event": "failed", "error": "Out of order."}\n', "Out of order."),
        (STREAM + b'{"event": "finished"}\n', "finished before the answer"),
        (STREAM, "without a word"),
    ],
)
def test_nothing_else_is_asked_again(export_folder: Path, key_folder: Path, answer: bytes, sentence: str) -> None:
    context = server_context(load_keys(key_folder, "server"))
    with answering(context, [answer] * 4) as (address, requests):
        with pytest.raises(SessionError, match=sentence) as error:
            client_of(export_folder, key_folder, address).ask("a", 1)
        assert not isinstance(error.value, UnavailableError)
        assert len(requests) == 1


@pytest.mark.timeout(180)
def test_a_prompt_that_a_prepared_answer_cannot_look_up_is_refused_before_anybody_is_asked(
    export_folder: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prompt_tokens: tuple[int, ...], shape: ModelShape) -> None:
        raise PlacementError("They do not fit.")

    # The model of this test has too few token ids for buckets; what refuses is tested with `place_ids`.
    monkeypatch.setattr(client_module, "check_placement", refuse)
    info, context = BundleInfo("a" * 32, "f", 32, 1, 1, ""), server_context(load_keys(key_folder, "server"))
    with answering(context, [BUSY]) as (address, requests):
        client = client_of(export_folder, key_folder, address)
        monkeypatch.setattr(ClientShelf, "fitting", lambda *_: [info])
        for _ in range(2):  # and what was taken for it is given back
            with pytest.raises(UnaskableError, match=r"They do not fit\."):
                client.ask("a", 1)
        assert client.shelf.take(1, 1) == info
        assert requests == []


@pytest.mark.timeout(180)
def test_a_place_in_the_queue_is_shown(export_folder: Path, key_folder: Path) -> None:
    context = server_context(load_keys(key_folder, "server"))
    events = [{"event": "queued", "position": 2}, {"event": "queued", "position": 1}, {"event": "failed", "error": "Closed."}]
    seen: list[Progress] = []
    answer = STREAM + b"".join(json.dumps(event).encode() + b"\n" for event in events)
    with answering(context, [answer]) as (address, _), pytest.raises(SessionError, match=r"Closed\."):
        client_of(export_folder, key_folder, address).ask("a", 1, on_progress=seen.append)
    assert [(progress.phase, progress.position) for progress in seen] == [("queued", 2), ("queued", 1)]
    assert describe(seen[0]) == "in the server's queue, place 2"


@pytest.mark.timeout(180)
def test_the_command_says_that_it_asks_again(export_folder: Path, key_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ask", "a", "--model", str(export_folder / "client"), "--keys", str(key_folder), "--server", "127.0.0.1:1"]
    assert main([*command, "--retries", "1"]) == 2
    captured = capsys.readouterr()
    waiting, error = captured.err.splitlines()
    assert "no place at the server, asking again soon" in waiting
    assert error.startswith("hushlm: No server can be reached at 127.0.0.1:1")
    assert captured.out == ""


def test_progress_is_one_line() -> None:
    moved = Traffic(sent_bytes=1_000_000, received_bytes=2_500_000)
    progress = Progress("query", 2, 8, 9, 40, 1, 6, moved, 5.0, 70_000_000, 0.0625, 3725.4)
    assert describe(progress) == "token 2 of 8, layer 1 of 6, 3.5 of 70.0 MB, 6%, about 1:02:05 left"
    # Between blocks the layer just done is shown.
    assert "layer 0 of 6" in describe(replace(progress, layer=None))
    assert "layer 6 of 6" in describe(replace(progress, layer=None, step=40, remaining_seconds=59.6))
    assert describe(replace(progress, remaining_seconds=59.6)).endswith("about 1:00 left")
    assert "70.0 MB to come" in describe(replace(progress, phase="set-up"))


@given(st.integers(0, 100), st.none() | st.floats(0, 100), st.integers(0, 2**32))
def test_pauses_grow_are_scattered_and_bounded(attempt: int, wished_seconds: float | None, seed: int) -> None:
    retries = Retries(limit=80, first_seconds=2.0, longest_seconds=30.0)
    pause = retries.pause_seconds(attempt, wished_seconds, random.Random(seed))
    wished = wished_seconds or 0.0
    assert (pause is None) == (attempt >= 80 or wished > 30)
    if pause is not None:
        grown = min(2.0 * 2**attempt, 30.0)
        assert max(grown / 2, wished) <= pause <= max(grown, wished) <= 30.0


@pytest.mark.timeout(180)
def test_a_server_that_wishes_a_long_pause_is_not_asked_again(export_folder: Path, key_folder: Path) -> None:
    context = server_context(load_keys(key_folder, "server"))
    answer = USED.replace(b"Enough\r\n", b"Enough\r\nretry-after: 3000\r\n")
    with answering(context, [answer] * 4) as (address, requests):
        with pytest.raises(UnavailableError, match="Enough today") as error:
            client_of(export_folder, key_folder, address).ask("a", 1)
        assert error.value.wished_seconds == 3000
        assert len(requests) == 1


def test_pauses_differ_between_clients() -> None:
    assert len({Retries(1).pause_seconds(0, None, random.Random(seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("arguments", [{"limit": -1}, {"first_seconds": -1.0}, {"longest_seconds": -1.0}])
def test_negative_retries_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Retries(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("reveal", ["token", "topk:5", "logits"])
def test_the_estimate_adds_up(export_folder: Path, key_folder: Path, reveal: str) -> None:
    client = Client(export_folder / "client", "127.0.0.1:1", key_folder)
    expected = client.estimate(9, 4, RevealPolicy.parse(reveal))
    assert len(expected.passes) == 4
    assert expected.passes[1] is expected.passes[2]
    assert expected.bytes == sum(report.total.bytes for report in expected.passes)
    places = [(token, step) for token, report in enumerate(expected.passes) for step in range(len(report.steps))]
    done = [expected.seconds_done(token, step) for token, step in places]
    assert done == sorted(done)
    assert done[0] == 0
    assert expected.seconds_done(3, len(expected.passes[3].steps)) == pytest.approx(expected.seconds)
    assert expected.bytes > client.estimate(9, 3, RevealPolicy.parse(reveal)).bytes
