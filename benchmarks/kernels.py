"""Perplexity of the MPC-native attention kernels beside exact softmax, at the demo's shape, over seeds.

    python benchmarks/kernels.py [--seeds 3] [--jobs 2] [--steps 1200] [--rows SM+R,SM2+R,...]

Every run has the same budget and settings (one learning rate for all, nothing tuned on what is reported) and is finished once:
its JSON lies in runs/kernels/ and is not run again. Writes results/kernels-micro.json with validation and test perplexity per byte,
and with --write the table in docs/kernels.md. --table writes both from what was run so far, without training.
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
from sections import write_section

DOCUMENT = Path("docs/kernels.md")
ROWS = (
    *(f"SM{n}+{ffn}" for ffn in ("ScFuFFN", "R") for n in ("", 1, 2, 3)),
    "SM+LN+G",
    "EReg(SM(t)+ScFuFFN)",
    "EReg(SM2+R)",
    "EReg(SM2+ScFuFFN)",
)


def record_of(name: str, seed: int, steps: int) -> Path:
    return Path("runs/kernels") / f"{name}-{steps}-{seed}.json"


def run(name: str, seed: int, steps: int) -> dict:
    """Train and evaluate one row with one seed, or read what an earlier call found."""
    import torch

    from hushlm.data import open_token_store
    from hushlm.training import evaluate, train

    torch.set_num_threads(1)
    record = record_of(name, seed, steps)
    folder = record.with_suffix("")
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


def summarise(found: list[dict], names: list[str]) -> list[dict]:
    """A row an architecture, runs by seed; architectures without a run are left out."""
    rows = []
    for name in names:
        runs = sorted((entry for entry in found if entry["architecture"] == name), key=lambda entry: entry["seed"])
        if runs:
            tests = [entry["test_perplexity"] for entry in runs]
            rows.append({"architecture": name, "test_perplexity_mean": statistics.mean(tests), "runs": runs})
    return rows


def markdown(rows: list[dict]) -> str:
    """Mean and every seed; bytes predicted for one private pass at this shape, full context."""
    from hushlm.architectures import parse
    from hushlm.cost import price
    from hushlm.plan import prefill_plan

    shape = RunConfig().shape
    lines = ["| architecture | test perplexity per byte, mean | by seed 0, 1, ... | predicted MB of a private pass |", "|---|---|---|---|"]
    for row in rows:
        seeds = ", ".join(f"{entry['test_perplexity']:.2f}" for entry in row["runs"])
        size = price(prefill_plan(parse(row["architecture"]), shape, shape.context)).total.bytes
        lines.append(f"| {row['architecture']} | {row['test_perplexity_mean']:.2f} | {seeds} | {size / 1e6:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=RunConfig().training.steps)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--output", type=Path, default=Path("results/kernels-micro.json"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="regenerate the table in docs/kernels.md")
    asked = parser.parse_args()
    names = asked.rows.split(",")
    asked_runs = [(name, seed, asked.steps) for seed in range(asked.seeds) for name in names]
    found = []
    if asked.table:
        found = [json.loads(record_of(*key).read_text()) for key in asked_runs if record_of(*key).is_file()]
    else:
        with ProcessPoolExecutor(asked.jobs) as pool:
            for future in as_completed([pool.submit(run, *key) for key in asked_runs]):
                found.append(future.result())
                last = found[-1]
                print(f"{last['architecture']:24s} seed {last['seed']} test perplexity {last['test_perplexity']:.3f}", flush=True)
    rows = summarise(found, names)
    write_atomic(asked.output, json.dumps({"settings": RunConfig().to_dict(), "rows": rows}, indent=1))
    print(f"Wrote {asked.output}")
    if asked.write:
        write_section(DOCUMENT, "kernels", markdown(rows))


if __name__ == "__main__":
    main()
