"""Attention with exact entropies against plain attention without, and against the materialised way of the paper's listing.

    python benchmarks/attention.py [--contexts 128,256,512,1024,2048] [--device cuda] [--json] [--write]

Forward and backward, float32, 12 heads of 64, causal, 4096 tokens but at most 8 sequences a call (on a GPU 65,536 tokens), in one
process, interleaved: every round runs every contestant once, and the best round of each counts. Peak memory is what the process, or the
GPU's allocator, grew by in one call, inputs apart.

    ours           `hushlm.entropy.entropy_attention`: output and row entropies, gradients of both
    sdpa           `torch.nn.functional.scaled_dot_product_attention`: output only
    materialised   the scores as one tensor, softmax (or the MPC-native kernel), -sum p log(p + 1e-9), differentiated by autograd

Writes results/attention.json (attention-cuda.json), and with --write the tables in docs/training-speed.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hushlm.entropy import entropy_attention
from hushlm.entropy.kernels import choose
from hushlm.files import write_atomic
from hushlm.report.table import Column, Table, print_table
from sections import write_section

DOCUMENT = Path("docs/training-speed.md")
HEADS, WIDTH = 12, 64
TOKENS = {"cpu": 4096, "cuda": 65_536}
LARGEST_BATCH = {"cpu": 8, "cuda": 512}
EPSILON = 1e-9


def materialised(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, order: int | None) -> tuple[Tensor, Tensor]:
    """Output and entropies as the paper's listing computes them."""
    T = q_BHTE.shape[2]
    s_BHTT = (q_BHTE @ k_BHTE.mT) / math.sqrt(q_BHTE.shape[3])
    s_BHTT = s_BHTT.masked_fill(torch.ones(T, T, dtype=torch.bool, device=s_BHTT.device).triu(1), float("-inf"))
    if order is None:
        p_BHTT = s_BHTT.softmax(-1)
    else:
        w_BHTT = (1 + (s_BHTT - s_BHTT.amax(-1, keepdim=True)) / 2**order).clamp_min(0) ** (2**order)
        p_BHTT = w_BHTT / w_BHTT.sum(-1, keepdim=True)
    return p_BHTT @ v_BHTE, -(p_BHTT * (p_BHTT + EPSILON).log()).sum(-1)


def batch_of(context: int, device: str) -> int:
    return max(1, min(LARGEST_BATCH[device], TOKENS[device] // context))


def contestants(context: int, orders: list[int | None], device: str) -> dict[str, Callable[[], None]]:
    """Forward and backward of each, on the same inputs, laid out as a model's projections leave them."""
    batch = batch_of(context, device)
    generator = torch.Generator(device).manual_seed(context)

    def random() -> Tensor:
        return torch.randn(batch, context, HEADS, WIDTH, generator=generator, device=device).transpose(1, 2)

    q, k, v = (random().requires_grad_() for _ in range(3))
    of_output, of_entropy = random(), torch.randn(batch, HEADS, context, generator=generator, device=device)

    def sdpa() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), of_output)

    def ours(order: int | None) -> Callable[[], None]:
        return lambda: finish(*entropy_attention(q, k, v, order=order))

    def reference(order: int | None) -> Callable[[], None]:
        return lambda: finish(*materialised(q, k, v, order))

    def finish(output: Tensor, entropy_nats: Tensor) -> None:
        torch.autograd.grad((output, entropy_nats), (q, k, v), (of_output, of_entropy))

    runs: dict[str, Callable[[], None]] = {"sdpa": sdpa}
    for order in orders:
        runs |= {f"ours {name_of(order)}": ours(order), f"materialised {name_of(order)}": reference(order)}
    return runs


def name_of(order: int | None) -> str:
    return "SM" if order is None else f"SM{order}"


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def best_seconds(runs: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    best = dict.fromkeys(runs, math.inf)
    for number in range(rounds + 1):
        for name, run in runs.items():
            if number > max(1, rounds // 3) and name.startswith("materialised"):
                continue  # slow, and far from the others
            wait_for(device)
            start = time.perf_counter()
            run()
            wait_for(device)
            if number:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_bytes(run: Callable[[], None], device: str) -> int | None:
    """Growth of the resident set, or of the GPU's allocations, during a call over what it was before; None where the system does not tell
    (not Linux)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - held
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def measure(context: int, orders: list[int | None], rounds: int, device: str) -> list[dict]:
    runs = contestants(context, orders, device)
    seconds = best_seconds(runs, rounds, device)
    memory = {name: peak_bytes(run, device) for name, run in runs.items()}
    rows = []
    for order in orders:
        ours, reference = f"ours {name_of(order)}", f"materialised {name_of(order)}"
        rows.append(
            {
                "context": context,
                "batch": batch_of(context, device),
                "attention": name_of(order),
                "ratio_to_sdpa": seconds[ours] / seconds["sdpa"],
                "ratio_to_materialised": seconds[ours] / seconds[reference],
                "seconds": seconds[ours],
                "sdpa_seconds": seconds["sdpa"],
                "materialised_seconds": seconds[reference],
                "peak_bytes": memory[ours],
                "sdpa_peak_bytes": memory["sdpa"],
                "materialised_peak_bytes": memory[reference],
            }
        )
    return rows


def table_of(rows: list[dict]) -> Table:
    def milliseconds(seconds: float) -> str:
        return f"{1e3 * seconds:,.0f}" if seconds >= 1e-2 else f"{1e3 * seconds:.1f}"

    def megabytes(count: float) -> str:
        return f"{count / 1e6:,.0f}"

    columns = (
        Column("attention", "attention"),
        Column("context", "T", "d", "right"),
        Column("batch", "B", "d", "right"),
        Column("ratio_to_sdpa", "time / SDPA", ".2f", "right"),
        Column("ratio_to_materialised", "time / materialised", ".2f", "right"),
        Column("seconds", "ms", milliseconds, "right"),
        Column("sdpa_seconds", "SDPA ms", milliseconds, "right"),
        Column("materialised_seconds", "materialised ms", milliseconds, "right"),
        Column("peak_bytes", "MB", megabytes, "right"),
        Column("sdpa_peak_bytes", "SDPA MB", megabytes, "right"),
        Column("materialised_peak_bytes", "materialised MB", megabytes, "right"),
    )
    return Table("", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contexts", default="128,256,512,1024,2048")
    parser.add_argument("--orders", default="0,2,3", help="0 is exact softmax, n the MPC-native kernel of n squarings")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="by default results/attention.json, or attention-cuda.json")
    parser.add_argument("--json", action="store_true", help="print the JSON document")
    parser.add_argument("--write", action="store_true", help="regenerate the table in docs/training-speed.md")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    orders = [int(order) or None for order in asked.orders.split(",")]
    found = [row for context in asked.contexts.split(",") for row in measure(int(context), orders, asked.rounds, asked.device)]
    named = "attention" if asked.device == "cpu" else f"attention-{asked.device}"
    output = asked.output or Path("results", f"{named}.json")
    plain = [row for row in found if row["attention"] == "SM"]
    native = [row for row in found if row["attention"] != "SM"]
    rows = plain + native
    document = {
        "kernel": choose(torch.zeros(1, 1, 1, WIDTH, device=asked.device), order=None).name,
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "heads": HEADS,
        "head_width": WIDTH,
        "rows": plain,
        "native_softmax_rows": native,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, json.dumps(document, indent=1))
    if asked.json:
        print(json.dumps(document))
    else:
        print_table(table_of(rows))
    if asked.write:
        where = f"{document['threads']} threads" if asked.device == "cpu" else f"{document['device']}, torch {document['torch']}"
        write_section(DOCUMENT, named, f"Kernel `{document['kernel']}`, {where}.\n\n{table_of(rows).to_markdown()}")


if __name__ == "__main__":
    main()
