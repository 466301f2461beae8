"""One call of the command line in this process, under a limit of time and memory, judged by the error contract.

The contract: exit code 0, 1, 2, 130 or 141; a refusal (2) is one sentence, alone on standard error; no exception comes out of `main`.
"""

from __future__ import annotations

import io
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushlm.cli.main import main

__all__ = ["Outcome", "attempt"]

LIMIT_SECONDS = 30.0
LIMIT_BYTES = 3 << 30
"""Address space that a call may take beyond what the process has."""

NOBODY = 65534
CODES = (0, 1, 2, 130, 141)


class _TooLong(BaseException):
    """Not an Exception: no handler of a command may take it for its own."""


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        words: the command line.
        code: the exit code; None if it did not end by itself.
        out: standard output.
        err: standard error.
        fault: how it broke the contract, or "".
    """

    words: Sequence[str]
    code: int | None
    out: str
    err: str
    fault: str

    @property
    def refused(self) -> bool:
        """Whether the call ended with a refusal."""
        return self.code == 2


def attempt(words: Sequence[str], folder: Path, *, as_nobody: bool = False, encoding: str = "utf-8", closed: bool = False) -> Outcome:
    """Run `hushlm WORDS`.

    Args:
        words: the command line.
        folder: the working folder.
        as_nobody: with the rights of a user who owns nothing, which needs root.
        encoding: of both outputs.
        closed: whether the reader of standard output has gone.
    """
    error = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    output: Any = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    if closed:
        reading, writing = os.pipe()
        os.close(reading)
        output = os.fdopen(writing, "w", encoding=encoding)
    code, fault = None, ""
    with _streams(output, error), _inside(folder, as_nobody), _limited():
        try:
            code = main(list(words))
        except _TooLong:
            fault = f"still running after {LIMIT_SECONDS:g} s"
        except SystemExit as end:
            code = int(end.code or 0) if not isinstance(end.code, str) else 1
        except BaseException as raised:
            if isinstance(raised, KeyboardInterrupt):
                raise
            fault = f"{type(raised).__name__} came out: {raised}"
    written = "" if closed else output.buffer.getvalue().decode(encoding, "replace")
    if closed:
        try:
            output.close()
        except BrokenPipeError:
            fault = fault or "output left for the interpreter to fail on at its end"
    error.flush()
    said = error.buffer.getvalue().decode(encoding, "replace")
    return Outcome(words, code, written, said, fault or _judge(code, said))


def _judge(code: int | None, said: str) -> str:
    if code not in CODES:
        return f"exit code {code}"
    if "Traceback" in said:
        return "a traceback"
    if code == 2:
        lines = said.splitlines()
        if len(lines) != 1 or not lines[0].startswith("hushlm: "):
            return f"{len(lines)} lines instead of a sentence"
        if not lines[0].endswith((".", "?", ")", "!")) or len(lines[0]) > 1000:
            return "no sentence"
    return ""


@contextmanager
def _streams(output: Any, error: Any) -> Iterator[None]:
    before = sys.stdout, sys.stderr, sys.stdin
    handlers = list(logging.getLogger().handlers)
    sys.stdout, sys.stderr, sys.stdin = output, error, io.TextIOWrapper(io.BytesIO())
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.stdin = before
        logging.getLogger().handlers[:] = handlers


@contextmanager
def _inside(folder: Path, as_nobody: bool) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        if as_nobody:
            os.seteuid(NOBODY)
        yield
    finally:
        if as_nobody:
            os.seteuid(0)
        os.chdir(before)


@contextmanager
def _limited() -> Iterator[None]:
    """Time by a signal of its own, because the test runner has the alarm; memory by the address space."""

    def stop(*_: Any) -> None:
        raise _TooLong

    main_thread = threading.main_thread().ident
    assert main_thread is not None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(LIMIT_SECONDS, lambda: signal.pthread_kill(main_thread, signal.SIGUSR1))
    timer.daemon = True
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    timer.start()
    try:
        if pages is not None:
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, limits[1]))
        yield
    finally:
        timer.cancel()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for number, handler in handlers.items():
            signal.signal(number, handler)
