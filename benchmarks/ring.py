"""How fast exact products modulo 2^64 run on floats: multiplications a second of one process, beside numpy's own integer product.

    OPENBLAS_NUM_THREADS=1 python benchmarks/ring.py [--shapes 128x768x768,128x3072x768,12x128x64x128] [--seconds 0.5]

A shape ROWSxINNERxOUTER is a product with weights (whole numbers below 2^20), HEADSxROWSxINNERxOUTER one of two full-range arrays. CPU
seconds of the whole process count, so that more threads do not look faster than they are. Every product is checked against numpy's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.ring import WeightMatrix, full_product

SHAPES = "128x768x768,128x768x2304,128x3072x768,1x768x2304,12x128x64x128,12x128x128x64"
CHECKED_ROWS = 2


def cpu_seconds(work: Callable[[], object], least: float) -> float:
    """CPU seconds of one call, the mean of as many as take `least` seconds."""
    work()
    count, start = 0, time.process_time()
    while time.process_time() - start < least:
        work()
        count += 1
    return (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    source = MaskSource()
    print(f"{'shape':>18s} {'limbs GMAC/s':>13s} {'numpy GMAC/s':>13s} {'ms':>8s}")
    for text in arguments.shapes.split(","):
        sizes = [int(part) for part in text.split("x")]
        rows, inner, outer = sizes[-3:]
        work, x = int(np.prod(sizes)) / 1e9, source.words((*sizes[:-3], rows, inner))
        if len(sizes) == 3:
            y = np.random.default_rng(0).integers(-(2**20), 2**20, (inner, outer)).view(np.uint64)
            weights = WeightMatrix(y.view(np.int64))

            def ours(x: np.ndarray = x, weights: WeightMatrix = weights) -> np.ndarray:
                return weights.product(x)
        else:
            y = source.words((*sizes[:-3], inner, outer))

            def ours(x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:  # type: ignore[misc]
                return full_product(x, y)

        few = x[..., :CHECKED_ROWS, :]
        assert (ours()[..., :CHECKED_ROWS, :] == few @ y).all(), "a product is wrong"
        fast = cpu_seconds(ours, arguments.seconds)
        plain = cpu_seconds(lambda few=few, y=y: few @ y, arguments.seconds / 4) * rows / min(rows, CHECKED_ROWS)  # type: ignore[misc]
        print(f"{text:>18s} {work / fast:13.2f} {work / plain:13.2f} {fast * 1e3:8.1f}")


if __name__ == "__main__":
    main()
