"""Runs the blocks of one document in one folder, as a reader would: shell blocks by bash, Python blocks in one interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Session", "free_port"]

BLOCK_SECONDS = 300
INTERPRETER = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "block", "exec"), names)
        outcome = ""
    except BaseException:
        outcome = traceback.format_exc()
    sys.stdout.flush()
    print(json.dumps({"outcome": outcome}), file=sys.__stderr__, flush=True)
"""


PORT_SECONDS = 60


def free_port(port: int) -> bool:
    """Whether nobody listens at this port of this machine, within `PORT_SECONDS`.

    A killed server's sockets close when the kernel has taken its memory back: seconds after the kill, and nobody can wait for
    a process that is not a child.
    """
    end = time.monotonic() + PORT_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return True
        time.sleep(0.1)
    return False


class Session:
    """A reader's terminal: a folder, a shell with `hushlm` and `python` in it, and one Python interpreter. Everything started is ended.

    Args:
        folder: where the reader is.
        python: the interpreter of the installation that the reader uses.
        engine_threads: of the sessions of servers that the reader starts; None leaves it to the server.
    """

    def __init__(self, folder: Path, python: str = sys.executable, engine_threads: int | None = None) -> None:
        self.folder, self._python = folder, python
        commands = folder.parent / "commands"
        commands.mkdir(exist_ok=True)
        threads = "" if engine_threads is None else f'[ "$1" = serve ] && set -- "$@" --engine-threads {engine_threads}\n'
        for name, words, before in (("hushlm", "-m hushlm", threads), ("python", "", "")):
            script = commands / name
            script.write_text(f'#!/bin/sh\n{before}exec "{python}" {words} "$@"\n')
            script.chmod(0o755)
        path = f"{commands}{os.pathsep}{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        self._groups: list[int] = []
        self._interpreter: subprocess.Popen[str] | None = None

    def shell(self, text: str) -> str:
        """Run a block by bash, which stops at the first command that fails. What it starts in the background goes on.

        Returns: standard output and error together.
        """
        log = self.folder.parent / f"block-{len(self._groups)}.log"
        # Into a file, not a pipe: a server in the background would hold the pipe open.
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._groups.append(process.pid)
        code = process.wait(BLOCK_SECONDS)
        printed = log.read_text()
        assert code == 0, f"exit code {code} of:\n{text}\n{printed}"
        return printed

    def python(self, text: str) -> str:
        """Run a block in the document's interpreter, which remembers the blocks before. Returns: what it wrote on standard output."""
        log = self.folder.parent / "interpreter.log"
        if self._interpreter is None:
            with log.open("w") as output:
                self._interpreter = subprocess.Popen(
                    [self._python, "-c", INTERPRETER],
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            self._groups.append(self._interpreter.pid)
        assert self._interpreter.stdin is not None
        assert self._interpreter.stderr is not None
        before = log.stat().st_size
        self._interpreter.stdin.write(json.dumps(text) + "\n")
        self._interpreter.stdin.flush()
        said = []
        # Warnings and progress may stand before the line that says how it went.
        for line in self._interpreter.stderr:
            if line.startswith('{"outcome"'):
                outcome = json.loads(line)["outcome"]
                assert not outcome, f"{outcome}\nof:\n{text}"
                return log.read_text()[before:]
            said.append(line)
        raise AssertionError(f"the interpreter ended in:\n{text}\n{''.join(said)}")

    def close(self) -> None:
        """End the interpreter, and every process that a block left in the background."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self._interpreter is not None:
            self._interpreter.wait(10)
            for stream in (self._interpreter.stdin, self._interpreter.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
