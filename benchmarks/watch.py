"""What watching costs: CPU time of updates with a metrics row against updates without, in the same run.

    python benchmarks/watch.py [--interval 10] [--steps 200] [--json]

Recorded and plain updates alternate every `EVERY` steps, so both see the same machine; medians of CPU time (one thread) are compared, and
the difference is spread over the interval at which rows are written. Files (the row in `<output>.metrics.jsonl`) are part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from hushlm.config import DataConfig, EntropyConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.training import StepRecord, train

EVERY = 4
CASES = (
    ("EReg(SM(t)+ScFuFFN)", ModelShape()),
    ("SM+LN+G", ModelShape()),
    ("EReg(SM(t)+ScFuFFN)", ModelShape(layers=6, heads=8, width=256, context=256)),
    ("SM+LN+G", ModelShape(layers=6, heads=8, width=256, context=256)),
)


def measure(architecture: str, shape: ModelShape, store: TokenStore, steps: int, interval: int, folder: Path) -> dict[str, Any]:
    """Median CPU milliseconds of both kinds of update, and the share that rows at `interval` add to a step."""
    training = TrainingConfig(steps=steps, watch_every=EVERY, evaluate_every=10 * steps, evaluation_batches=1, threads=1)
    config = RunConfig(architecture, shape, DataConfig(), training, EntropyConfig(weight_end_fraction=None), folder / "run")
    times: dict[bool, list[float]] = {True: [], False: []}
    last = time.process_time()

    def note(record: StepRecord) -> None:
        nonlocal last
        now = time.process_time()
        if 8 < record.step < record.steps:  # not the first, which warm up, nor the last, which validates
            times[record.row is not None].append(now - last)
        last = time.process_time()

    train(config, store, on_step=note)
    recorded, plain = (1000 * statistics.median(times[kind]) for kind in (True, False))
    return {
        "architecture": architecture,
        "layers": shape.layers,
        "width": shape.width,
        "context": shape.context,
        "plain_cpu_ms": plain,
        "recorded_cpu_ms": recorded,
        "interval": interval,
        "share_of_step": (recorded - plain) / interval / plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=int, default=TrainingConfig.watch_every)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store = open_token_store(DataConfig())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for architecture, shape in CASES:
            steps = options.steps if shape.width < 128 else max(40, options.steps // 5)
            rows.append(measure(architecture, shape, store, steps, options.interval, Path(folder)))
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    for row in rows:
        size = f"L={row['layers']} D={row['width']} T={row['context']}"
        print(
            f"{row['architecture']:<22} {size:<18} plain {row['plain_cpu_ms']:7.1f} ms, recorded {row['recorded_cpu_ms']:7.1f} ms: "
            f"{100 * row['share_of_step']:+.2f}% of a step at an interval of {row['interval']}"
        )


if __name__ == "__main__":
    main()
