"""Sessions and tokens a minute by number of workers, on this machine: a server and its clients, which share its cores.

    python benchmarks/load.py --write      # results/load.json, and the tables of docs/operate.md

Every session is one `hushlm.private.Client` in a thread with a worker process of its own, as many at a time as the server has workers; the
rest waits in the server's queue. The model is a small one, made on the way, so what is measured is mostly what any session costs:
processes, handshakes, the engine's set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.files import write_atomic
from hushlm.private.client.client import Client, ClientSettings
from hushlm.private.keys.certificates import create_keys
from hushlm.private.program.export_model import export_model
from hushlm.training import load_checkpoint, train
from operate_page import LOAD, write_page

WORKERS = (1, 2, 4)
PROMPT = "12 alpha beta ga"
READY = re.compile(r" on (\S+:\d+),")


def make_export(folder: Path) -> tuple[Path, Path]:
    """L=2, H=2, D=32, T=32, bytes, hardly trained. Returns: the export and the keys."""
    corpus = folder / "corpus"
    corpus.mkdir()
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma", "delta"], size=(40, 200))
    for number, line in enumerate(words):
        (corpus / f"{number}.txt").write_text(" ".join(line) + "\n")
    config = RunConfig.from_dict(
        {
            "architecture": "SM2+ScFuFFN",
            "shape": {"layers": 2, "heads": 2, "width": 32, "context": 32},
            "data": {"corpus": str(corpus), "validation_share": 0.1, "cache": str(folder / "store")},
            "training": {"steps": 10, "batch": 8, "warmup_steps": 2, "evaluate_every": 10, "evaluation_batches": 1, "threads": 1},
            "output": str(folder / "checkpoint"),
        }
    )
    train(config, open_token_store(config.data))
    export_model(load_checkpoint(folder / "checkpoint"), folder / "export")
    create_keys(folder / "keys", ["127.0.0.1"])
    return folder / "export", folder / "keys"


@contextmanager
def serving(export: Path, keys: Path, workers: int, queue: int) -> Iterator[str]:
    """`hushlm serve`; yields its address."""
    command = [sys.executable, "-m", "hushlm", "serve", str(export / "server"), "--keys", str(keys), "--listen", "127.0.0.1:0"]
    options = ["--workers", str(workers), "--queue", str(queue), "--silent-seconds", "600", "--connect-seconds", "120"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        ready = READY.search(process.stdout.readline())
        assert ready, "the server did not start"
        yield ready[1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def measure(export: Path, keys: Path, workers: int, sessions: int, tokens: int) -> dict[str, float]:
    """One row. All sessions are asked for at once."""
    settings = ClientSettings(connect_seconds=120, start_seconds=300, silent_seconds=600, alive_seconds=60)
    with serving(export, keys, workers, sessions) as address, ThreadPoolExecutor(sessions) as pool:
        client = Client(export / "client", address, keys, settings=settings)
        before, start = os.getloadavg()[0], time.perf_counter()
        answers = [future.result() for future in [pool.submit(client.ask, PROMPT, tokens) for _ in range(sessions)]]
        seconds = time.perf_counter() - start
    assert all(len(answer.tokens) == tokens for answer in answers)
    return {
        "workers": workers,
        "sessions": sessions,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "sessions_per_minute": round(60 * sessions / seconds, 2),
        "tokens_per_minute": round(60 * sessions * tokens / seconds, 2),
        "query_seconds": round(float(np.median([answer.query_seconds for answer in answers])), 2),
        "load_average_before": round(before, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=4, help="of each number of workers")
    parser.add_argument("--tokens", type=int, default=4, help="of each session")
    parser.add_argument("--write", action="store_true", help="results/load.json and docs/operate.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hushlm-load-") as folder:
        export, keys = make_export(Path(folder))
        rows = []
        for workers in WORKERS:
            rows.append(measure(export, keys, workers, options.sessions, options.tokens))
            print(json.dumps(rows[-1]), flush=True)
    if options.write:
        write_atomic(LOAD, json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
        write_page()


if __name__ == "__main__":
    main()
