"""Running a server: its queue, its limits, how it stops, what it counts and what it logs. Sessions here end before anything is computed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import dropwhile, islice
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("spu")

from tests.private.by_hand import HandMade, hand_made
from tests.private.service import Serving, free_port, serving, session_folders, wait_for

from hushlm.cli.main import main
from hushlm.private.keys.certificates import add_client

CANARY = "Tq8%whisper&Lz3"
"""Occurs nowhere else."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Asking = Callable[..., AbstractContextManager[HandMade]]


@pytest.fixture(scope="module")
def two_clients(key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys with a second client, "alice"."""
    folder = tmp_path_factory.mktemp("two") / "keys"
    shutil.copytree(key_folder, folder)
    add_client(folder, "alice")
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server keeps its session folders."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def start(export_folder: Path, two_clients: Path, scratch: Path) -> Callable[..., AbstractContextManager[Serving]]:
    """start("--option", ...): a server whose clients' engines may take their time."""

    def make(*options: str) -> AbstractContextManager[Serving]:
        return serving(export_folder, two_clients, scratch / "server.log", "--connect-seconds", "100", *options)

    return make


@pytest.fixture
def asking(export_folder: Path, two_clients: Path, scratch: Path) -> Asking:
    """asking(server, "name"): a client."""

    def make(server: Serving, name: str = "client") -> AbstractContextManager[HandMade]:
        return hand_made(server.address, export_folder, two_clients, scratch, name)

    return make


def failed(error: str) -> dict[str, object]:
    """The last event of a session that had no prepared answer to lose."""
    return {"event": "failed", "error": error, "bundle_gone": False}


def is_queued(event: dict[str, object]) -> bool:
    return event["event"] == "queued"


def log_lines(server: Serving) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def measured(address: str) -> dict[str, float]:
    """Every sample of `GET /metrics`, by name and labels."""
    response = httpx.get(f"http://{address}/metrics", follow_redirects=True, trust_env=False)
    assert response.status_code == 200
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_queue_the_metrics_and_the_log_tell_one_story(
    start: Callable[..., AbstractContextManager[Serving]], asking: Asking, scratch: Path
) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    options = ("--queue", "1", "--client-sessions", "2", "--allow-reveal", "topk:3", "--metrics", metrics)
    with start(*options) as server, asking(server) as client, asking(server, "alice") as alice:
        assert client.get("/ready").json() == {"status": "ready", "sessions": 0, "queue": 0}
        with client.session() as first:
            assert next(first)["event"] == "accepted"
            with alice.session(prompt_length=5) as second:
                assert next(second) == {"event": "queued", "position": 1}
                full = client.refused()
                assert (full.status_code, full.json()["error"]) == (
                    503,
                    "This server's worker is busy and 1 session waits already: try again later.",
                )
                assert client.get("/ready").status_code == 503
                assert client.get("/ready").json() == {"status": "full", "sessions": 1, "queue": 1}
                during = measured(metrics)
                assert httpx.get(f"http://{metrics}/health", trust_env=False).json() == client.get("/health").json()
                assert httpx.get(f"http://{metrics}/ready", trust_env=False).status_code == 503
                client.http.close()
                assert [event["event"] for event in islice(dropwhile(is_queued, second), 1)] == ["accepted"]
                refused = alice.refused(reveal={"kind": "topk", "top": 4})
                assert refused.status_code == 400
                assert "reveals at most topk:3" in refused.json()["error"]
        wait_for(lambda: measured(metrics)["hushlm_sessions_running"] == 0, 10, "the end of the second session")
        after = measured(metrics)
        wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        lines = log_lines(server)
    assert (during["hushlm_sessions_running"], during["hushlm_queue_length"], during["hushlm_workers"]) == (1, 1, 1)
    assert during["hushlm_refused_total{reason=full}"] == 1
    assert after["hushlm_sessions_total{outcome=given_up}"] == 2
    assert after["hushlm_sessions_total{outcome=finished}"] == 0
    assert after["hushlm_refused_total{reason=invalid}"] == 1
    assert after["hushlm_tokens_total{kind=prompt}"] == 3 + 5
    assert after["hushlm_queue_seconds_count"] == after["hushlm_session_seconds_count"] == 2
    assert 0 < after["hushlm_queue_seconds_sum"] <= after["hushlm_session_seconds_sum"] + 60
    # The log says the same, each session under its name.
    sessions = [line for line in lines if line["event"] == "session"]
    ended = [line for line in lines if line["event"] == "session ended"]
    assert [line["client"] for line in sessions] == ["client", "alice"]
    assert [line["prompt_tokens"] for line in sessions] == [3, 5]
    assert {line["session"] for line in sessions} == {line["session"] for line in ended}
    assert [line["outcome"] for line in ended] == ["given_up", "given_up"]
    assert [line["reason"] for line in lines if line["event"] == "refused"] == ["full", "invalid"]
    assert all(line["level"] in ("info", "warning", "error") and "timestamp" in line for line in lines)


def test_each_client_has_its_own_limits(start: Callable[..., AbstractContextManager[Serving]], asking: Asking) -> None:
    options = ("--workers", "2", "--client-sessions", "1", "--client-tokens", "5", "--client-window-seconds", "500")
    with start(*options) as server, asking(server) as client, asking(server, "alice") as alice:
        with client.session(new_tokens=4) as events:
            assert next(events)["event"] == "accepted"
            second = client.refused()
            assert (second.status_code, second.json()["error"]) == (
                429,
                "This server lets a client have 1 session at a time: wait until one has ended.",
            )
            with alice.session() as others:
                assert next(others)["event"] == "accepted"
        wait_for(lambda: client.get("/health").json()["sessions"] == 0, 10, "the end of the sessions")
        # No engine had come, so no token could have been computed, and none is charged.
        with client.session(new_tokens=5) as events:
            assert next(events)["event"] == "accepted"
        assert client.refused(new_tokens=6).status_code == 400


@pytest.mark.parametrize("patient", [True, False])
def test_a_server_that_stops_says_so_and_waits_for_its_sessions(
    start: Callable[..., AbstractContextManager[Serving]], asking: Asking, scratch: Path, patient: bool
) -> None:
    with start("--drain-seconds", "60" if patient else "2") as server, asking(server) as client, asking(server, "alice") as alice:
        with client.session() as running:
            assert next(running)["event"] == "accepted"
            with alice.session() as waiting:
                assert next(waiting)["event"] == "queued"
                server.process.send_signal(signal.SIGTERM)
                told = time.monotonic()
                stopping = "This server is stopping and takes no new session: ask again later, or ask another server."
                assert list(dropwhile(is_queued, waiting)) == [failed(stopping)]
                if patient:
                    late = alice.refused()
                    assert (late.status_code, late.json()["error"]) == (503, stopping)
                    assert alice.get("/ready").json()["status"] == "stopping"
                    assert alice.get("/health").status_code == 200
                    assert len(server.workers()) == 1
                else:
                    assert next(running) == failed("The server was stopped.")
                    assert 1.5 < time.monotonic() - told < 12
        assert server.process.wait(12) == 0
        assert server.workers() == []
        assert session_folders(scratch) == []
        assert "Traceback" not in server.log.read_text()


def test_a_server_takes_over_its_predecessor_s_port_at_once(start: Callable[..., AbstractContextManager[Serving]], asking: Asking) -> None:
    with start() as server, asking(server) as client:
        with client.session() as events:
            assert next(events)["event"] == "accepted"
            server.process.kill()
            server.process.wait()
            address = server.address
        with start("--listen", address) as successor, client.session() as events:
            assert successor.address == address
            assert next(events)["event"] == "accepted"


def test_nothing_that_a_client_sends_besides_the_protocol_is_logged_or_counted(
    start: Callable[..., AbstractContextManager[Serving]], asking: Asking
) -> None:
    """A careless client's prompt in places where it does not belong."""
    metrics = f"127.0.0.1:{free_port()}"
    with start("--verbose", "--metrics", metrics) as server, asking(server) as client:
        url = f"https://{server.address}"
        for body in (
            CANARY,
            json.dumps(CANARY),
            json.dumps([CANARY]),
            json.dumps(client.request | {"prompt": CANARY}),
            json.dumps(client.request | {"prompt_length": CANARY}),
            json.dumps(client.request | {"reveal": {"kind": CANARY}}),
            json.dumps(client.request | {"fingerprint": CANARY}),
        ):
            assert client.http.post(f"{url}/sessions", content=body, headers={"x-prompt": CANARY}).status_code == 400
        for path in (f"/{CANARY}", f"/sessions?prompt={CANARY}", f"/health?prompt={CANARY}"):
            client.http.get(f"{url}{path}", headers={"user-agent": CANARY})
        with client.session(engine_certificate=f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----\n") as events:
            assert list(events)[-1]["event"] == "failed"
        wait_for(lambda: measured(metrics)["hushlm_sessions_total{outcome=failed}"] == 1, 10, "the end of the session")
        samples = measured(metrics)
        log = server.log.read_text()
    assert samples["hushlm_refused_total{reason=invalid}"] == 7
    assert CANARY not in log
    assert CANARY not in json.dumps(samples)
    names = {name.partition("{")[2].partition("=")[0] for name in samples if "{" in name}
    assert names == {"outcome", "reason", "kind", "direction", "event", "le"}
    # The search finds what is there: the client's own name stands in the log, by design, and in no metric.
    assert '"client": "client"' in log
    assert "=client" not in json.dumps(samples)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_mistakes_in_a_server_s_options_are_named(
    export_folder: Path, key_folder: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, part in (
        (("--metrics", taken), "choose another address with --metrics"),
        (("--metrics", "here"), "HOST:PORT"),
        (("--queue", "-1"), "room for 0 sessions or more"),
        (("--allow-reveal", "everything"), "topk:K"),
        (("--client-sessions", "0"), "at least one session"),
        (("--client-tokens", "0"), "at least one token"),
        (("--client-window-seconds", "0"), "above 0 seconds"),
    ):
        assert main(["serve", str(export_folder / "server"), "--keys", str(key_folder), "--listen", "127.0.0.1:0", *options]) == 2
        assert part in capsys.readouterr().err
