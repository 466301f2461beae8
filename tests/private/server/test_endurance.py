"""Fifty sessions one after the other and eight at once: right answers, flat memory and descriptors at the server, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

pytest.importorskip("spu")

from tests.private.service import PROMPTS, Serving, serving, session_folders, wait_for, workers_of

from hushlm.files import write_manifest
from hushlm.private.client.client import Client, PrivateAnswer, Progress
from hushlm.training import Checkpoint

SEQUENTIAL, COMPLETE, CONCURRENT, WORKERS = 50, 2, 8, 2
"""Most of the sequential sessions are left once the engines are linked: what a session leaves at the server is the same, and half a
minute of two cores is saved each."""

SETTLED = 10
"""Sessions before the first measurement: caches fill."""

GROWTH_BYTES = 6_000_000
"""A seventh of a megabyte a session would be seen."""

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(900)]


class LeftError(Exception):
    """The caller has seen enough."""


@pytest.fixture(scope="module")
def light_export(export_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same program on one thread a party, whose set-up costs half the time."""
    folder = tmp_path_factory.mktemp("light") / "export"
    shutil.copytree(export_folder, folder)
    for side in ("server", "client"):
        path = folder / side / "program.json"
        description = json.loads(path.read_text())
        description["engine"]["threads"] = 1
        path.write_text(json.dumps(description))
        (folder / side / "manifest.json").unlink()
        write_manifest(folder / side)
    return folder


@pytest.fixture
def server(light_export: Path, key_folder: Path, scratch: Path) -> Iterator[Serving]:
    options = ("--workers", str(WORKERS), "--queue", str(CONCURRENT), "--silent-seconds", "300", "--connect-seconds", "60")
    with serving(light_export, key_folder, scratch / "server.log", *options) as running:
        yield running


def used(server: Serving) -> tuple[int, int]:
    """Resident bytes and open descriptors of the listening process, when no session is left."""
    wait_for(lambda: not server.workers(), 20, "the end of the workers")
    process = psutil.Process(server.process.pid)
    deadline, least = time.monotonic() + 3, process.num_fds()
    while time.monotonic() < deadline:  # connections that are about to close
        least = min(least, process.num_fds())
        time.sleep(0.1)
    return process.memory_info().rss, least


def leave(progress: Progress) -> None:
    if progress.phase == "set-up":
        raise LeftError


def test_fifty_sessions_and_then_eight_at_once_leave_nothing_behind(
    server: Serving, light_export: Path, key_folder: Path, scratch: Path, served_checkpoint: Checkpoint
) -> None:
    client = Client(light_export / "client", server.address, key_folder)
    answers: list[PrivateAnswer] = []
    start: tuple[int, int] = (0, 0)
    for number in range(SEQUENTIAL):
        if number == SETTLED:
            start = used(server)
        if number % (SEQUENTIAL // COMPLETE) == SETTLED - 1:
            answers.append(client.ask(PROMPTS[0], 1))
        else:
            with pytest.raises(LeftError):
                client.ask(PROMPTS[0], 1, on_progress=leave)
    after = used(server)
    positions: list[int] = []

    def note(progress: Progress) -> None:
        if progress.position is not None:
            positions.append(progress.position)

    with ThreadPoolExecutor(CONCURRENT) as pool:
        asked = [pool.submit(client.ask, PROMPTS[number % 2], 1, on_progress=note) for number in range(CONCURRENT)]
        answers += [future.result() for future in asked]
    end = used(server)
    for answer in answers:
        assert list(answer.tokens) == served_checkpoint.model.greedy(list(answer.prompt_tokens), 1)
    assert len(answers) == COMPLETE + CONCURRENT
    assert set(positions) >= {1, 2}
    for (memory, descriptors), (later, now) in ((start, after), (start, end)):
        assert later - memory < GROWTH_BYTES
        assert now <= descriptors
    assert workers_of(os.getpid()) == []
    wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
    log = [json.loads(line) for line in server.log.read_text().splitlines()]
    outcomes = [line["outcome"] for line in log if line["event"] == "session ended"]
    assert outcomes.count("finished") == COMPLETE + CONCURRENT
    assert outcomes.count("given_up") == SEQUENTIAL - COMPLETE
