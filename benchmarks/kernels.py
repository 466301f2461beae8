"""Perplexity of the MPC-native attention kernels beside exact softmax, at the demo's shape, over seeds.

    python benchmarks/kernels.py [--seeds 3] [--jobs 2] [--steps 1200] [--rows SM+R,SM2+R,...]

Every run has the same budget and settings (one learning rate for all, nothing tuned on what is reported) and is finished once:
its JSON lies in runs/kernels/ and is not run again. Writes results/kernels-micro.json with validation and test perplexity per byte.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from hushlm.config import RunConfig
from hushlm.files import write_atomic

ROWS = (
    *(f"SM{n}+{ffn}" for ffn in ("ScFuFFN", "R") for n in ("", 1, 2, 3)),
    "SM+LN+G",
    "EReg(SM(t)+ScFuFFN)",
    "EReg(SM2+R)",
    "EReg(SM2+ScFuFFN)",
)


def run(name: str, seed: int, steps: int) -> dict:
    """Train and evaluate one row with one seed, or read what an earlier call found."""
    import torch

    from hushlm.data import open_token_store
    from hushlm.training import evaluate, train

    torch.set_num_threads(1)
    folder = Path("runs/kernels") / f"{name}-{steps}-{seed}"
    record = folder.with_suffix(".json")
    if record.is_file():
        return json.loads(record.read_text())
    base = RunConfig()
    config = replace(base, architecture=name, output=folder, training=replace(base.training, seed=seed, steps=steps, threads=1))
    store = open_token_store(config.data)
    result = train(config, store)
    test = evaluate(result.model, store.tokens["test"], 8, config.shape.context, 10_000)
    found = {
        "architecture": name,
        "seed": seed,
        "steps": steps,
        "corpus": store.fingerprint,
        "validation_perplexity": result.evaluation.perplexity,
        "test_perplexity": test.perplexity,
        "head_entropy_nats": test.head_entropy_nats_LH.tolist(),
        "cpu_seconds": round(result.cpu_seconds, 1),
    }
    write_atomic(record, json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=RunConfig().training.steps)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--output", type=Path, default=Path("results/kernels-micro.json"))
    asked = parser.parse_args()
    names = asked.rows.split(",")
    found = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for future in as_completed([pool.submit(run, name, seed, asked.steps) for seed in range(asked.seeds) for name in names]):
            found.append(future.result())
            last = found[-1]
            print(f"{last['architecture']:24s} seed {last['seed']} test perplexity {last['test_perplexity']:.3f}", flush=True)
    rows = []
    for name in names:
        runs = sorted((entry for entry in found if entry["architecture"] == name), key=lambda entry: entry["seed"])
        tests = [entry["test_perplexity"] for entry in runs]
        rows.append({"architecture": name, "test_perplexity_mean": statistics.mean(tests), "runs": runs})
    write_atomic(asked.output, json.dumps({"settings": RunConfig().to_dict(), "rows": rows}, indent=1))
    print(f"Wrote {asked.output}")


if __name__ == "__main__":
    main()
