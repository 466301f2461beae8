"""Train models with power kernels in the contest's micro setting, and print what their private programs have to cope with.

    python benchmarks/power_kernels.py "PS3(th,qk)+LN+Q" [--seeds 3] [--score-penalty 0.1] [--runs runs/power]

At the end stand the ratios of test perplexities to those of GPT-2's design with the same seeds, from results/frontier-micro.json: trained
with the same settings, and at the settings that were best for it. A finished run is loaded, not trained again. Legend: B batch, T tokens,
H heads.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hushlm.architectures import POWER_FLOOR, slug
from hushlm.data import fixed_batches, open_token_store
from hushlm.experiments.contest.contest_page import read_contest
from hushlm.experiments.scales import BASELINE, CONTEST_SCALES
from hushlm.model.self_attention import Attention
from hushlm.training import evaluate, load_checkpoint, train

WINDOWS = 64

RESULTS = Path(__file__).parents[1] / "results" / "frontier-micro.json"
MUON: dict[str, Any] = {"optimiser": "muon"}
REST: dict[str, Any] = {"weight_decay": 0.03, "init_std": 0.014, "residual_init": 0.5}
"""The contest's settings for models of its search. GPT-2's design was best with the optimiser alone."""


def keep_mean_weights(
    seen: list[torch.Tensor], order: int, q_BHTE: torch.Tensor, k_BHTE: torch.Tensor, temperature: torch.Tensor | None
) -> None:
    """Of every row that has more than one key: its weights' mean."""
    s_BHTT = q_BHTE @ k_BHTE.mT / q_BHTE.shape[-1] ** 0.5
    if temperature is not None:
        s_BHTT = s_BHTT / (temperature if temperature.ndim == 2 else temperature[:, None])[..., None]
    w_BHTT = ((1 + s_BHTT / 2**order) ** (2**order) + POWER_FLOOR).tril()
    seen.append((w_BHTT.sum(-1) / torch.arange(1, w_BHTT.shape[-1] + 1))[..., 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="+")
    parser.add_argument("--seeds", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--muon-alone", action="store_true", help="train at the settings that were best for GPT-2's design")
    parser.add_argument("--score-penalty", type=float, default=0.0, help="weight of the penalty on scores beyond a private program's range")
    parser.add_argument("--runs", type=Path, default=Path("runs/power"))
    options = parser.parse_args()
    for name in options.architectures:
        rest = {} if options.muon_alone else REST
        ratios = [run(name, seed, options.runs, rest, options.score_penalty) for seed in range(options.seeds)]
        for label, found in zip(("the same settings", "its best settings"), zip(*ratios, strict=True), strict=True):
            print(f"{name}: {statistics.mean(found):.3f} of {BASELINE} at {label} ({' / '.join(f'{ratio:.3f}' for ratio in found)})")


def baseline_perplexity(changes: dict[str, Any], seed: int) -> float:
    """GPT-2's design on the test split, trained with these changes."""
    wanted = {f"training.{name}": value for name, value in changes.items()}
    [row] = [row for row in read_contest(RESULTS)["points"] if row["architecture"] == BASELINE and row["changes"] == wanted]
    return row["perplexity_by_seed"][seed]


def run(name: str, seed: int, runs: Path, rest: dict[str, Any], score_penalty: float) -> tuple[float, float]:
    """Train or load one model and print what it is like.

    Returns: its test perplexity over that of the baseline, at the same settings and at the baseline's best.
    """
    scale = CONTEST_SCALES["micro"]
    base = scale.base
    training = replace(
        base.training, **MUON, **rest, learning_rate=0.01, steps=1200, evaluate_every=1200, seed=seed, score_penalty=score_penalty
    )
    folder = runs / f"{slug(name)}{'' if rest else '-muon'}{f'-penalty-{score_penalty:g}' if score_penalty else ''}-{seed}"
    entropy = replace(base.entropy, initial_temperature=0.8) if rest else base.entropy
    config = replace(base, architecture=name, training=training, entropy=entropy, output=folder)
    store = open_token_store(config.data)
    if not folder.exists() or load_checkpoint(folder).step < training.steps:
        train(config, store, resume_from="auto")
    model, shape = load_checkpoint(folder).model.eval(), config.shape
    found, test = (
        evaluate(model, store.tokens[split], config.training.batch, shape.context, batches)
        for split, batches in (("validation", config.training.evaluation_batches), ("test", scale.evaluation_batches))
    )
    ratios = (test.perplexity / baseline_perplexity(MUON | rest, seed), test.perplexity / baseline_perplexity(MUON, seed))
    print(f"{name}, seed {seed}: perplexity {found.perplexity:.3f} on the validation split, {test.perplexity:.3f} on the test split")
    print("  mean entropy by layer, nats:", *(f"{nats:.2f}" for nats in found.head_entropy_nats_LH.mean(1).tolist()))
    if found.share_beyond_LH is None:
        return ratios
    print("  share of scores below -2^n by layer:", *(f"{share:.1%}" for share in found.share_beyond_LH.mean(1).tolist()))
    seen: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, Attention):
            module.observer = partial(keep_mean_weights, seen, module.order or 0)
    with torch.no_grad():
        for window_BT in fixed_batches(store.tokens["validation"], 8, shape.context, WINDOWS // 8):
            model(window_BT[:, :-1])
    quantiles = (0.0, 0.001, 0.01, 0.5, 0.99, 0.999, 1.0)
    logarithms = np.log2(np.quantile(torch.cat(seen).numpy(), quantiles))
    print("  log2 of the rows' mean weights:", *(f"{q:.1%} {value:.1f}," for q, value in zip(quantiles, logarithms, strict=True)))
    return ratios


if __name__ == "__main__":
    main()
