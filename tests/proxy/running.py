"""`hushlm proxy` as a process, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.private.service import HUSHLM, READY, START_SECONDS, Serving, workers_of


@contextlib.contextmanager
def proxying(keys: Path, log: Path, *options: str, program: Sequence[str] = HUSHLM) -> Iterator[Serving]:
    """`hushlm proxy` on a port of the system's choice; killed at the end, with its workers.

    Args:
        keys: folder of keys.
        log: where its standard error goes.
        options: the rest of the command line: models, servers, names.
        program: what takes the place of `hushlm`.
    """
    command = [*program, "proxy", "--keys", str(keys), "--listen", "127.0.0.1:0", "--reveal", "logits", "--sessions", "2", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        ready = READY.search(process.stdout.readline())
        watchdog.cancel()
        assert ready, log.read_text()
        yield Serving(process, ready[1], log)
    finally:
        workers = workers_of(process.pid)
        process.kill()
        process.wait(10)
        process.stdout.close()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
