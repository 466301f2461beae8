"""Training runs as processes of their own, two at a time, with one display of their progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hushlm.config import RunConfig
from hushlm.files import write_atomic
from hushlm.report.run_progress import RunsProgress

__all__ = ["RunOutcome", "run_all"]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        config: the settings of the run.
        stopped_at_step: the update that the entropy watch refused; None for a run that ended well.
        layers: the layers that had collapsed at the stop.
        reason: what the watch said, as a sentence; "" for a run that ended well.
        seconds: how long the training loop took; None for a stopped run.
        metrics: the rows of metrics.jsonl.
    """

    config: RunConfig
    stopped_at_step: int | None
    layers: tuple[int, ...]
    reason: str
    seconds: float | None
    metrics: list[dict[str, Any]]


def run_all(configs: Mapping[str, RunConfig], folder: Path, parallel: int) -> dict[str, RunOutcome]:
    """Train every config by `hushlm train` in a process of its own.

    Args:
        configs: the settings of each run by its name, in the order in which the runs start.
        folder: where the settings and logs of the processes go.
        parallel: how many runs are made at once.

    Raises:
        ValueError: with the sentence of a run that could not be made.
    """
    running = _Running()
    with RunsProgress({name: config.training.steps for name, config in configs.items()}) as progress:
        pool = ThreadPoolExecutor(parallel)
        try:
            futures = {name: pool.submit(_run, name, config, folder, progress, running) for name, config in configs.items()}
            wait(futures.values(), return_when=FIRST_EXCEPTION)
            if running.error is not None:
                raise running.error
            for future in futures.values():
                if future.done():
                    future.result()
            return {name: future.result() for name, future in futures.items()}
        finally:
            # After an error or Ctrl-C no process is left behind.
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            pool.shutdown()


class _Running:
    """The processes that are alive. Once they were stopped, no new one starts.

    Attributes:
        error: the error that stopped them; None while there is none.
    """

    error: BaseException | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def start(self, command: list[str], log: Path) -> subprocess.Popen[str]:
        # One thread for each process. The settings' own number would come too late for a library that reads the variable at import.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._lock, log.open("w") as errors:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, env=environment)
            self._processes.add(process)
            return process

    def stop(self, error: BaseException | None = None) -> None:
        with self._lock:
            if not self._stopped:
                self.error = error
            self._stopped = True
            for process in self._processes:
                if process.poll() is None:
                    process.terminate()


def _run(name: str, config: RunConfig, folder: Path, progress: RunsProgress, running: _Running) -> RunOutcome:
    settings = folder / f"{config.output.name}.yaml"
    log = folder / f"{config.output.name}.log"
    write_atomic(settings, yaml.safe_dump(config.to_dict(), sort_keys=False))
    progress.start(name)
    process = running.start([sys.executable, "-m", "hushlm", "train", "--config", str(settings), "--progress", "json"], log)
    try:
        event = _follow(name, process, progress)
    except BaseException as error:
        running.stop(error)
        raise
    finally:
        process.wait()
    if event.get("event") == "done":
        progress.end(
            name, f"perplexity {event['validation_perplexity']:.2f}" if event["validation_perplexity"] else "perplexity overflowed"
        )
        return RunOutcome(config, None, (), "", event["seconds"], _rows(config.output / "metrics.jsonl"))
    if event.get("event") == "diverged":
        progress.end(name, f"stopped before update {event['step']}")
        rows = _rows(config.output.with_name(f"{config.output.name}.diverged.jsonl"))
        return RunOutcome(config, event["step"], tuple(event["layers"]), event["reason"], None, rows)
    last = log.read_text().strip().splitlines()
    reason = last[-1].removeprefix("hushlm: ") if last else f"its process ended with code {process.returncode}"
    failure = ValueError(f"The run of {name} failed, {reason} (log: {log})")
    running.stop(failure)
    raise failure


def _follow(name: str, process: subprocess.Popen[str], progress: RunsProgress) -> dict[str, Any]:
    """Show a run's events until it ends. Returns: the last one, {} if there was none."""
    event: dict[str, Any] = {}
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step":
                seen = f", perplexity {event['perplexity']:.2f}" if event["perplexity"] is not None else ""
                progress.update(name, event["step"], f"loss {event['loss']:.3g}{seen}")
    return event


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
