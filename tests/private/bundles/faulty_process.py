"""A process that forks one child for each line it reads; the child works on a store and meets its fault at a numbered file operation.

Reads {"folder": of the stores, "calls": [[method, argument], ...], "fault": "kill" | "tear" | "fail" | "fail on", "at": number of the
file operation, "error": number of the system's error, "children": how many do the same at once}. "kill" sends SIGKILL before that
operation; "tear" does half of it first, if it writes; "fail" lets it fail, and "fail on" all that follow too. Faults count from the last
call on.

Prints JSON: for each child its exit code, the operations of its last call, and what that returned or the sentence that it raised.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.private.bundles.stores import PROGRAM, content, identity_of, made, store

from hushlm.private.bundles import BundleError, BundleStore, BundleStoreError

OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate")


class Faults:
    """Counts file operations once it is on."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.on, self.count, self._job = False, 0, job
        for name in OPERATIONS:
            setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, operation: Any) -> Any:
        fault, at = self._job.get("fault"), self._job.get("at")

        def counted(*arguments: Any, **options: Any) -> Any:
            if not self.on:
                return operation(*arguments, **options)
            self.count += 1
            if self.count == at and fault in ("kill", "tear"):
                if fault == "tear" and name == "write":
                    operation(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if at is not None and (self.count == at if fault == "fail" else fault == "fail on" and self.count >= at):
                raise OSError(self._job["error"], os.strerror(self._job["error"]))
            return operation(*arguments, **options)

        return counted


def call(kept: BundleStore, method: str, argument: Any) -> Any:
    match method:
        case "add":
            return kept.add(made(argument), PROGRAM).identity
        case "burn":
            return repr(content(kept.burn(identity_of(argument))))
        case "drop":
            return kept.drop(identity_of(argument))
        case "keep_only":
            return [info.identity for info in kept.keep_only([identity_of(name) for name in argument], PROGRAM)]
    raise AssertionError(method)


def child(job: dict[str, Any], report: int, start: int) -> None:
    kept, faults = store(Path(job["folder"])), Faults(job)
    *before, last = job["calls"]
    for each in before:
        call(kept, *each)
    os.read(start, 1)
    faults.on = True
    said: dict[str, Any] = {}
    try:
        said["returned"] = call(kept, *last)
    except BundleError as error:
        said |= {"sentence": str(error), "of the store": isinstance(error, BundleStoreError)}
    faults.on = False
    os.write(report, json.dumps({**said, "operations": faults.count}).encode())


def work(job: dict[str, Any]) -> list[dict[str, Any]]:
    running, start = [], os.pipe()
    for _ in range(job.get("children", 1)):
        report = os.pipe()
        process = os.fork()
        if process == 0:
            code = 3
            try:
                child(job, report[1], start[0])
                code = 0
            finally:
                os._exit(code)
        os.close(report[1])
        running.append((process, report[0]))
    os.write(start[1], bytes(len(running)))
    ended = []
    for process, report_end in running:
        with os.fdopen(report_end, "rb") as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        ended.append({"code": code, **(json.loads(said) if said else {})})
    for end in start:
        os.close(end)
    return ended


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)
