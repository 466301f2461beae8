"""Time of a forward and backward pass with one and two threads, at several widths: why small models get one thread.

    python benchmarks/threads.py [--json]

Fastest of six passes each, one and two threads in turn, twice.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch.nn import functional as F

from hushlm.config import ModelShape, RunConfig
from hushlm.training import build_model

SHAPES = tuple(ModelShape(layers=layers, heads=width // 16, width=width) for layers, width in ((6, 64), (4, 256), (2, 512), (1, 768)))


def fastest_ms(shape: ModelShape, threads: int) -> float:
    """Wall time of a pass over 8 sequences."""
    torch.set_num_threads(threads)
    model, _ = build_model(RunConfig(shape=shape))
    window_BT = torch.randint(0, shape.vocabulary, (8, shape.context + 1))
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        output = model(window_BT[:, :-1], with_entropy=True)
        F.cross_entropy(output.logits_BTV.flatten(0, 1), window_BT[:, 1:].flatten()).backward()
        times.append(time.perf_counter() - begin)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for shape in SHAPES:
        measured = [(threads, fastest_ms(shape, threads)) for threads in (1, 2, 1, 2)]
        best = {threads: min(ms for t, ms in measured if t == threads) for threads in (1, 2)}
        rows.append({"layers": shape.layers, "width": shape.width, "one_thread_ms": best[1], "two_threads_ms": best[2]})
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    for row in rows:
        print(f"L={row['layers']} D={row['width']:<4} one thread {row['one_thread_ms']:7.1f} ms, two {row['two_threads_ms']:7.1f} ms")


if __name__ == "__main__":
    main()
