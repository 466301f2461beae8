"""Real processes for tests of the private service: servers, commands, relays, and looks into memory. Everything started is ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

HUSHLM = (sys.executable, "-m", "hushlm")
READY = re.compile(r" on (\S+:\d+),")
START_SECONDS = 60
PAGE_BYTES = 4096
PROMPTS = ("3 alpha beta ga", "12 delta epsi")
"""Of the same language as the corpus; the model's greedy answers to them are clear ones."""


@dataclass
class Serving:
    """A running `hushlm serve`."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def workers(self) -> list[int]:
        return workers_of(self.process.pid)

    def worker(self, seconds: float = 20) -> int:
        """The worker of the only session."""
        wait_for(lambda: bool(self.workers()), seconds, "the server's worker")
        return self.workers()[0]


@contextlib.contextmanager
def serving(export: Path, keys: Path, log: Path, *options: str, engine_threads: int | None = 1) -> Iterator[Serving]:
    """`hushlm serve` on a port of the system's choice, revealing what is asked for; killed at the end, with its workers.

    Args:
        engine_threads: of each session's engine at both parties. One needs half the set-up of the two that an export asks for, which is
            most of a session of so small a model. None says nothing, as a server's owner does by default.
    """
    command = [
        *HUSHLM,
        "serve",
        str(export / "server"),
        "--keys",
        str(keys),
        "--listen",
        "127.0.0.1:0",
        "--allow-reveal",
        "logits",
        *(() if engine_threads is None else ("--engine-threads", str(engine_threads))),
        *options,
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        ready = READY.search(line)
        assert ready, log.read_text()
        yield Serving(process, ready[1], log)
    finally:
        workers = workers_of(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)
        process.stdout.close()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def ask_command(prompt: str, export: Path, keys: Path, address: str, *options: str) -> list[str]:
    return [*HUSHLM, "ask", prompt, "--model", str(export / "client"), "--keys", str(keys), "--server", address, *options]


def run(command: Sequence[str], seconds: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired, after killing it."""
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, input=stdin)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2 and one line on standard error, with these words in it; progress lines may stand before it."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("hushlm: ")]
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr, result.stderr
    assert len(lines) == 1, result.stderr
    assert result.stderr.rstrip().endswith(lines[0])
    assert result.stdout == ""
    for part in parts:
        assert part in lines[0], lines[0]


def workers_of(parent: int) -> list[int]:
    """Living workers whose parent this is. Other children are not ours to judge: libraries start helpers that outlive a test."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z" and b"hushlm.private.session.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def session_folders(parent: Path) -> list[Path]:
    return sorted(parent.glob("hushlm-session-*"))


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Relay:
    """Passes TCP connections on to a target and keeps what went by, by direction.

    Attributes:
        forward: bytes from those who connect to the target, in the order of arrival.
        backward: the other way.
        listener: where to listen; a port of this machine by default.
    """

    target: str = ""
    forward: bytearray = field(default_factory=bytearray)
    backward: bytearray = field(default_factory=bytearray)
    listener: socket.socket | None = None

    def __post_init__(self) -> None:
        self._listener = self.listener or socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        for open_socket in self._sockets:
            open_socket.close()

    def cut(self) -> None:
        """End every connection."""
        for open_socket in list(self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                self._sockets.append(source)
                host, _, port = self.target.partition(":")
                try:
                    sink = socket.create_connection((host, int(port)), 5)
                except (OSError, ValueError):
                    source.shutdown(socket.SHUT_RDWR)
                    continue
                sink.settimeout(None)
                self._sockets.append(sink)
                for pair in ((source, sink, self.forward), (sink, source, self.backward)):
                    thread = threading.Thread(target=self._pump, args=pair, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def find_in_memory(process: int, needles: dict[str, bytes]) -> set[str]:
    """Names of the needles that occur in a process's writable memory. The process should be stopped."""
    found: set[str] = set()
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for start, end in _resident(process):
            try:
                memory.seek(start)
                data = _shorter(memory.read(end - start), max(map(len, needles.values())))
            except (OSError, OverflowError):
                continue
            found |= {name for name, needle in needles.items() if name not in found and _contains(data, needle)}
    return found


def _shorter(data: bytes, longest: int) -> bytes:
    """The same data for any needle up to this length that is not all zeros: empty pages further than that from a full one are left out.

    Most of an engine's memory is empty pages, and needles with zeros in them are searched for there twenty times as slowly as elsewhere.
    """
    whole = len(data) // PAGE_BYTES * PAGE_BYTES
    full = np.frombuffer(data[:whole], np.uint64).reshape(-1, PAGE_BYTES // 8).any(1)
    reach = -(-longest // PAGE_BYTES)
    near = np.convolve(np.pad(full, reach, constant_values=True), np.ones(2 * reach + 1), "valid") > 0.5
    return b"".join(data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] for page in np.flatnonzero(near)) + data[whole:]


def _contains(data: bytes, needle: bytes) -> bool:
    """`needle in data`, fast where both are nearly all zeros: looks for the first byte that is not, with what stands before it."""
    rare = len(needle) - len(needle.lstrip(b"\0"))
    stop = rare + 1
    while stop < len(needle) and needle[stop]:
        stop += 1
    anchor = needle[max(0, stop - 24) : stop]
    if rare < 8:
        return needle in data
    at = data.find(anchor)
    while at >= 0:
        start = at + len(anchor) - stop
        if start >= 0 and data[start : start + len(needle)] == needle:
            return True
        at = data.find(anchor, at + 1)
    return False


def _resident(process: int) -> list[tuple[int, int]]:
    """Writable mappings that hold anything."""
    regions, current = [], None
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line):
            current = (int(header[1], 16), int(header[2], 16)) if "rw" in header[3] else None
        elif current and line.startswith("Rss:") and int(line.split()[1]) > 0:
            regions.append(current)
    return regions
