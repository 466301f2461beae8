"""Train models with power kernels in the contest's micro setting, and print what their private programs have to cope with.

    python benchmarks/power_kernels.py "PS3(th,qk)+LN+Q" [--seed 0] [--runs runs/power]

A finished run is loaded, not trained again. Legend: B batch, T tokens, H heads.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hushlm.architectures import POWER_FLOOR, slug
from hushlm.data import fixed_batches, open_token_store
from hushlm.experiments.scales import CONTEST_SCALES
from hushlm.model.self_attention import Attention
from hushlm.training import evaluate, load_checkpoint, train

WINDOWS = 64


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/power"))
    options = parser.parse_args()
    base = CONTEST_SCALES["micro"].base
    training = replace(
        base.training,
        optimiser="muon",
        learning_rate=0.01,
        weight_decay=0.03,
        init_std=0.014,
        residual_init=0.5,
        steps=1200,
        evaluate_every=1200,
        seed=options.seed,
    )
    for name in options.architectures:
        folder = options.runs / f"{slug(name)}-{options.seed}"
        config = replace(base, architecture=name, training=training, entropy=replace(base.entropy, initial_temperature=0.8), output=folder)
        store = open_token_store(config.data)
        if not folder.exists():
            train(config, store)
        model, shape = load_checkpoint(folder).model.eval(), config.shape
        found = evaluate(model, store.tokens["validation"], config.training.batch, shape.context, config.training.evaluation_batches)
        print(f"{name}, seed {options.seed}: validation perplexity {found.perplexity:.3f}")
        print("  mean entropy by layer, nats:", *(f"{nats:.2f}" for nats in found.head_entropy_nats_LH.mean(1).tolist()))
        if found.share_beyond_LH is None:
            continue
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


if __name__ == "__main__":
    main()
