"""Sixteen sessions one after the other and five at once: right answers, flat memory and descriptors at the server, nothing left behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

pytest.importorskip("spu")

from tests.private.service import PROMPTS, Serving, serving, session_folders, wait_for, workers_of

from hushlm.private.client.client import Client, PrivateAnswer, Progress
from hushlm.training import Checkpoint

SEQUENTIAL, COMPLETE, CONCURRENT, WORKERS = 16, 2, 5, 2
"""Most of the sequential sessions are left once the engines are linked: what a session leaves at the server is the same, and ten seconds
of two cores are saved each."""

SETTLED = 6
"""Sessions before the first measurement: caches fill."""

GROWTH_BYTES, GROWTH_AT_ONCE_BYTES = 1_500_000, 6_000_000
"""A seventh of a megabyte a session would be seen, in the ten that follow one another (0.2 MB in all was). The first two sessions at once
need buffers for two, 3 MB of them."""

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(900)]


class LeftError(Exception):
    """The caller has seen enough."""


@pytest.fixture
def server(export_folder: Path, key_folder: Path, scratch: Path) -> Iterator[Serving]:
    options = ("--workers", str(WORKERS), "--queue", str(CONCURRENT), "--silent-seconds", "300", "--connect-seconds", "60")
    with serving(export_folder, key_folder, scratch / "server.log", *options) as running:
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


def test_sixteen_sessions_and_then_five_at_once_leave_nothing_behind(
    server: Serving, export_folder: Path, key_folder: Path, scratch: Path, served_checkpoint: Checkpoint
) -> None:
    client = Client(export_folder / "client", server.address, key_folder)
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
    print(f"resident bytes: {start[0]}, {after[0]}, {end[0]}")
    for (memory, descriptors), most in ((after, GROWTH_BYTES), (end, GROWTH_AT_ONCE_BYTES)):
        assert memory - start[0] < most
        assert descriptors <= start[1]
    assert workers_of(os.getpid()) == []
    wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
    log = [json.loads(line) for line in server.log.read_text().splitlines()]
    outcomes = [line["outcome"] for line in log if line["event"] == "session ended"]
    assert outcomes.count("finished") == COMPLETE + CONCURRENT
    assert outcomes.count("given_up") == SEQUENTIAL - COMPLETE
