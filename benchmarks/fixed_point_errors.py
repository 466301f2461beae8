"""Error budget of a private program: per operation, per logit, and top-1 agreement on validation prefixes.

    python benchmarks/fixed_point_errors.py CHECKPOINT [--prefixes 200] [--fraction-bits 18] [--json]

The engine's fixed-point arithmetic runs in the clear (`--mode simulate`) beside the float64 reference of the same program, on the
same prefixes; after every step both values are compared, so a step's figure holds all errors made before it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from hushlm.data import open_token_store
from hushlm.private.engine import Engine, Party
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.backend import EngineBackend, ReferenceBackend, Shape
from hushlm.private.program.description import RevealPolicy, describe
from hushlm.private.program.export_model import choose_rewrites
from hushlm.private.program.fold import fold_weights
from hushlm.private.program.generate import PrivateGenerator
from hushlm.private.program.steps import Arithmetic
from hushlm.training import load_checkpoint


class CheckedBackend:
    """Runs everything twice, in fixed point and in float64, and keeps the largest difference of every value by its name."""

    knows_client = knows_server = True

    def __init__(self, fixed: EngineBackend, exact: ReferenceBackend) -> None:
        self._fixed, self._exact = fixed, exact
        self.errors: dict[str, float] = defaultdict(float)
        self.sizes: dict[str, float] = defaultdict(float)

    def put(self, name: str, owner: Party, shape: Shape, value: np.ndarray | None) -> None:
        self._fixed.put(name, owner, shape, value)
        self._exact.put(name, owner, shape, value)

    def put_public(self, name: str, value: np.ndarray) -> None:
        self._fixed.put_public(name, value)
        self._exact.put_public(name, value)

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        traffic = self._fixed.run(key, build, inputs, outputs, public)
        self._exact.run(key, build, inputs, outputs, public)
        for name in outputs:
            fixed, exact = self._fixed.reveal(name, Party.CLIENT)[0], self._exact.reveal(name, Party.CLIENT)[0]
            assert fixed is not None
            assert exact is not None
            kind = name.rsplit(".", 1)[-1]
            self.errors[kind] = max(self.errors[kind], float(np.abs(fixed - exact).max()))
            self.sizes[kind] = max(self.sizes[kind], float(np.abs(exact).max()))
        return traffic

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        return self._fixed.reveal(name, to)


def measure(folder: Path, prefixes: int, fraction_bits: int) -> dict[str, Any]:
    """Compare on `prefixes` windows of the validation split, half a context long."""
    checkpoint = load_checkpoint(folder)
    model = checkpoint.model
    architecture, shape = model.architecture.without_regulariser(), model.shape
    state = {name: tensor.numpy() for name, tensor in model.plain_state().items()}
    rewrites, _ = choose_rewrites(state, architecture, shape, fraction_bits)
    description = describe(architecture, shape, rewrites, fraction_bits=fraction_bits, simulate=True)
    backend = CheckedBackend(EngineBackend(Engine(Party.CLIENT, description.engine, None)), ReferenceBackend())
    generator = PrivateGenerator(backend, description, fold_weights(state, architecture, shape, rewrites))
    tokens = open_token_store(checkpoint.config.data).tokens["validation"]
    length = shape.context // 2
    starts = np.linspace(0, len(tokens) - length - 1, prefixes).astype(int)
    agree, errors, spread = 0, [], []
    for start in starts:
        prefix = tokens[start : start + length].astype(int).tolist()
        answer = next(generator.generate(prefix, length, 1, RevealPolicy(kind="logits")))
        with torch.no_grad():
            wanted = model(torch.tensor([prefix])).logits_BTV[0, -1].double().numpy()
        assert answer.logits is not None
        agree += int(answer.logits.argmax() == wanted.argmax())
        errors.append(np.abs(answer.logits - wanted).max())
        spread.append(wanted.std())
    return {
        "checkpoint": str(folder),
        "architecture": str(architecture),
        "fraction_bits": fraction_bits,
        "prefixes": prefixes,
        "prefix_tokens": length,
        "top1_agreement": agree / prefixes,
        "logit_error_median": float(np.median(errors)),
        "logit_error_largest": float(np.max(errors)),
        "logit_std": float(np.mean(spread)),
        "value_error_largest": dict(backend.errors),
        "value_largest": dict(backend.sizes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prefixes", type=int, default=200)
    parser.add_argument("--fraction-bits", type=int, default=18)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(asked.checkpoint, asked.prefixes, asked.fraction_bits)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['architecture']}, {found['fraction_bits']} fraction bits, {found['prefixes']} validation prefixes")
    print(f"top-1 agreement with the plaintext model {found['top1_agreement']:.1%}")
    print(f"logit error: median {found['logit_error_median']:.2g}, largest {found['logit_error_largest']:.2g}")
    print(f"standard deviation of the logits {found['logit_std']:.2f}")
    print("| value | largest error | largest value |\n|---|---|---|")
    for name, error in found["value_error_largest"].items():
        print(f"| {name} | {error:.2g} | {found['value_largest'][name]:.3g} |")


if __name__ == "__main__":
    main()
