"""Ctrl-C while `hushlm ask` is at work: exit code 130, one line, and nothing left running at either end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("spu")

from tests.private.service import PROMPTS, Serving, ask_command, is_alive, serving, session_folders, wait_for, workers_of

END_SECONDS = 20

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every process of this file keeps its session folders."""
    folder = tmp_path_factory.mktemp("interrupts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, scratch: Path) -> Iterator[Serving]:
    with serving(export_folder, key_folder, scratch / "server.log") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


Asking = subprocess.Popen[str]
Moment = Callable[[Asking, Path], bool]


def loading(asking: Asking, _errors: Path) -> bool:
    """The command is importing what it needs. (Python's own start, before it runs any line of ours, is not ours to mend.)"""
    return "pydantic_core" in Path(f"/proc/{asking.pid}/maps").read_text()


def starting(asking: Asking, _errors: Path) -> bool:
    """Its worker has just been started."""
    return bool(workers_of(asking.pid))


def set_up(_asking: Asking, errors: Path) -> bool:
    """The engines are making their keys."""
    return "setting up the engine" in errors.read_text()


def computing(_asking: Asking, errors: Path) -> bool:
    """The first token is being computed."""
    return "token 1 of 12" in errors.read_text()


@pytest.mark.parametrize("moment", [loading, starting, set_up, computing])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_everything(
    server: Serving, scratch: Path, tmp_path: Path, export_folder: Path, key_folder: Path, moment: Moment, times: int
) -> None:
    """As a terminal sends it: to the whole process group, and again by a user who does not want to wait."""
    errors = tmp_path / "ask.err"
    command = ask_command(PROMPTS[0], export_folder, key_folder, server.address, "--new-tokens", "12", "--retries", "1")
    with errors.open("w") as stderr:
        asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0)
    try:
        wait_for(lambda: moment(asking, errors) or asking.poll() is not None, 90, moment.__name__)
        workers = workers_of(asking.pid)
        for _ in range(times):
            os.killpg(asking.pid, signal.SIGINT)
            time.sleep(0.1)
        out, _ = asking.communicate(timeout=END_SECONDS)
    finally:
        asking.kill()
        asking.wait()
    said = errors.read_text()
    assert asking.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "hushlm: interrupted."
    assert out == ""
    wait_for(lambda: not any(map(is_alive, workers)), END_SECONDS, "the end of the client's worker")
    wait_for(lambda: not server.workers(), END_SECONDS, "the end of the server's worker")
    wait_for(lambda: session_folders(scratch) == [], END_SECONDS, "the end of the session folders")
