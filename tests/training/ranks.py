"""Run by torchrun in test_ranks.py: every case on all ranks, what they give written by the first one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.training import load_checkpoint, open_world, train
from hushlm.training.checkpoint import build_model
from hushlm.training.gradient import backpropagate
from hushlm.training.team import Team, whole


def gradients(config: RunConfig, window_BT: torch.Tensor) -> dict[str, Any]:
    """Loss, penalty, head entropies and the whole gradient of one batch."""
    with open_world(config.training) as world:
        model, regulariser = build_model(config)
        folder = config.training.teacher
        teacher = load_checkpoint(folder).model.requires_grad_(False) if folder is not None else None
        team = Team(model.train(), regulariser, config.training, world, teacher)
        batch = config.training.batch
        found = backpropagate(team, window_BT[world.share(batch)], batch, 0.3, config.training, with_entropy=True)
        named = dict(model.named_parameters()) | ({f"regulariser.{n}": p for n, p in regulariser.named_parameters()} if regulariser else {})
        assert found.entropy_nats_LH is not None
        result = {name: whole(p.grad) for name, p in named.items() if p.grad is not None}
        return result | {
            "loss": torch.tensor([found.loss, found.total]),
            "penalty": torch.tensor([found.penalty or 0.0]),
            "teacher_loss": torch.tensor([found.teacher_loss or 0.0]),
            "entropy": found.entropy_nats_LH.float(),
        }


def run(cases: dict[str, dict[str, Any]], window_BT: torch.Tensor, store: TokenStore | None, folder: Path) -> None:
    """Each case's gradients as `<name>.pt`; a case with an output is trained instead."""
    for name, values in cases.items():
        config = RunConfig.from_dict(values)
        if "train" in name:
            assert store is not None
            train(config, store, checkpoint_every=3, resume_from="auto")
        else:
            found = gradients(config, window_BT)
            if not dist.is_initialized() or dist.get_rank() == 0:
                torch.save(found, folder / f"{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text())
    dist.init_process_group("gloo")
    store = open_token_store(RunConfig.from_dict(next(iter(cases.values()))).data)
    run(cases, torch.load(folder / "window.pt"), store, folder)
    dist.destroy_process_group()
