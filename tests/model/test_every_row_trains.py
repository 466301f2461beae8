"""Every row of the tables, with either kind of blocks, goes through the training loop into a checkpoint that gives the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hushlm.architectures import REGISTRY, Architecture, Blocks, Norm, parse
from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.training import load_checkpoint, train

ROWS = [architecture for architecture in REGISTRY if architecture.kernel_order is None or architecture.power]
ROWS += [parse("SM+LNf"), parse("SM+LNf+ScFuFFN")]
"""The paper's, power kernels, and a final LayerNorm as the authors' code leaves one in."""


@pytest.mark.parametrize("blocks", Blocks, ids=lambda blocks: blocks.name)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_trains_and_its_checkpoint_answers_alike(
    row: Architecture, blocks: Blocks, tiny: Callable[..., RunConfig], tiny_store: TokenStore
) -> None:
    architecture = replace(row, blocks=blocks, removed_ffns=min(row.removed_ffns, 1))
    config = tiny(str(architecture), training={"steps": 2, "evaluate_every": 2, "evaluation_batches": 1}, shape={"tied_head": False})
    result = train(config, tiny_store)
    assert result.metrics[-1]["step"] == 2
    loaded = load_checkpoint(result.folder)
    assert loaded.model.architecture == architecture
    assert loaded.model.greedy([1, 2, 3], 4) == result.model.eval().greedy([1, 2, 3], 4)
    assert all(("head_share_beyond" in record) == architecture.power for record in result.metrics)
    if architecture.entropy_regularised:
        assert loaded.regulariser is not None
    if architecture.norm in (Norm.WEIGHT, Norm.SPECTRAL):
        assert any("parametrizations" in name for name in loaded.model.state_dict())
        assert not any("parametrizations" in name for name in loaded.model.plain_state()), "a static norm is multiplied out"
    assert (loaded.model.blocks[1].feed_forward is None) == (architecture.removed_ffns == 1)
    with torch.no_grad():
        assert bool(loaded.model(torch.arange(8)[None]).logits_BTV.isfinite().all())
