"""A process with everything imported that forks one real training process for each line it reads; used by test_survival.py.

Reads {"config": ..., "every": updates between checkpoints, "die_at": number of the file operation before which it sends itself
"signal" (SIGKILL), "file_limit": bytes, "nobody": whether to give up root, "report": path}; prints the child's id, then its exit code.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.training import Preempted, train

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def count_operations(folder: str, die_at: int | None, number: int) -> list[int]:
    """Count what is done to files below `folder`; at number `die_at`, send a signal to oneself."""
    counted = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and folder in str(arguments[0]) and (event != "open" or arguments[1] != "r"):
            counted[0] += 1
            if counted[0] == die_at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return counted


def child(job: dict[str, Any]) -> int:
    config = RunConfig.from_dict(job["config"])
    report = Path(job["report"])
    store = open_token_store(config.data)
    if job.get("nobody"):
        os.setuid(65534)
    if limit := job.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    counted = count_operations(str(config.output.parent), job.get("die_at"), job.get("signal", signal.SIGKILL))
    try:
        train(config, store, checkpoint_every=job["every"], resume_from="auto")
    except Preempted as stopped:
        report.write_text(json.dumps({"stopped": stopped.step}))
        return 0
    except ValueError as error:
        if not job.get("nobody"):
            report.write_text(json.dumps({"sentence": str(error)}))
        print(error, file=sys.stderr)
        return 2
    report.write_text(json.dumps({"operations": counted[0]}))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter], fused=True).step()  # imports what every child would otherwise import for itself
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 3
            try:
                code = child(json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
