"""The first 20 steps of the paper preset, every bit of them.

    python benchmarks/paper_first_steps.py [--write]

GPT-2 small's blocks with EReg(SM(t)+ScFuFFN), the optimiser, schedule, temperature and regulariser of `hushlm reproduce --preset paper`.
So that 20 steps take under a minute on one core, a step has 2 sequences instead of 128, and tokens are bytes of the standard library
instead of CodeParrot's. Without --write the losses and gradient norms are compared with results/paper-first-steps.json: bit for bit on the
processor, corpus and kernel that the file was made with; elsewhere to 1 in 1,000, which no two different computations would keep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from hushlm.calibration.machine import processor_name
from hushlm.config import DataConfig
from hushlm.data import open_token_store
from hushlm.entropy.kernels import choose
from hushlm.experiments.scales import PAPER_SCALES
from hushlm.files import write_atomic
from hushlm.training import StepRecord, train

GOLDEN = Path(__file__).parent.parent / "results" / "paper-first-steps.json"
STEPS = 20
TOLERANCE = 1e-3


class _EnoughError(Exception):
    pass


def first_steps() -> dict:
    """Run them. Losses (nats) and gradient norms as hexadecimal floats, which keep every bit; and what the bits depend on."""
    base = PAPER_SCALES["paper"].base
    found: list[StepRecord] = []

    def note(record: StepRecord) -> None:
        found.append(record)
        if record.step == STEPS:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(corpus="stdlib", tokenizer="bytes", cache=Path(folder) / "data")
        config = replace(base, data=data, output=Path(folder) / "run", training=replace(base.training, batch=2, threads=1, watch_every=1))
        store = open_token_store(data)
        with contextlib.suppress(_EnoughError):
            train(config, store, on_step=note)
    kernel = choose(torch.zeros(1, config.shape.heads, config.shape.context, config.shape.head_width), order=None)
    return {
        "architecture": config.architecture,
        "loss_nats": [record.loss.hex() for record in found],
        "gradient_norm": [record.gradient_norm.hex() for record in found],
        "made_with": {
            "corpus": store.fingerprint,
            "torch": torch.__version__,
            "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
            "kernel": kernel.name,
        },
    }


def differences(found: dict, golden: dict) -> list[str]:
    """What differs, empty if nothing does. Another corpus can't be compared at all: its losses are others."""
    if found["made_with"]["corpus"] != golden["made_with"]["corpus"]:
        return ["the standard library is another one than the file was made with"]
    exact = found["made_with"] == golden["made_with"]
    wrong = []
    for name in ("loss_nats", "gradient_norm"):
        for step, (now, then) in enumerate(zip(found[name], golden[name], strict=True), 1):
            left, right = float.fromhex(now), float.fromhex(then)
            if now != then if exact else abs(left / right - 1) > TOLERANCE:
                wrong.append(f"{name} of step {step}: {left!r} instead of {right!r}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    found = first_steps()
    if parser.parse_args().write:
        write_atomic(GOLDEN, json.dumps(found, indent=1) + "\n")
        return 0
    wrong = differences(found, json.loads(GOLDEN.read_text()))
    print("\n".join(wrong) or f"The first {STEPS} steps are those of {GOLDEN.name}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
