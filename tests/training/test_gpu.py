"""Training on a GPU: what the CPU finds, the same bytes again, and NCCL. docs/training.md says where it last ran."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_ranks import torchrun

from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.training import Preempted, StepRecord, evaluate, load_checkpoint, train

Tiny = Callable[..., RunConfig]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

ARCHITECTURES = [("EReg(SM(t)+ScFuFFN)", "adamw"), ("SM+LN+G", "muon"), ("SM2(th)+LN+Q", "muon"), ("SM+SNorm(QK)", "adamw")]


def on_gpu(config: RunConfig, output: Path, **training: Any) -> RunConfig:
    return replace(config, output=output, training=replace(config.training, device="cuda", **training))


@pytest.mark.parametrize(("architecture", "optimiser"), ARCHITECTURES)
def test_the_losses_are_the_cpus(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path, architecture: str, optimiser: str) -> None:
    config = tiny(architecture, training={"optimiser": optimiser})
    ours: list[StepRecord] = []
    theirs: list[StepRecord] = []
    on_cpu = train(config, tiny_store, on_step=ours.append)
    found = train(on_gpu(config, tmp_path / "gpu"), tiny_store, on_step=theirs.append)
    # Muon's own products are in bfloat16, and a GPU adds in another order.
    assert [record.loss for record in theirs] == pytest.approx([record.loss for record in ours], rel=2e-3)
    assert found.evaluation.loss_nats == pytest.approx(on_cpu.evaluation.loss_nats, rel=2e-3)
    assert torch.allclose(found.evaluation.head_entropy_nats_LH, on_cpu.evaluation.head_entropy_nats_LH, atol=2e-2)
    # What was trained there is served here.
    loaded = load_checkpoint(found.folder).model
    again = evaluate(loaded, tiny_store.tokens["validation"], config.training.batch, 32, config.training.evaluation_batches)
    assert again.loss_nats == pytest.approx(found.evaluation.loss_nats, rel=1e-4)


@pytest.mark.parametrize(("architecture", "optimiser"), ARCHITECTURES[::2])
def test_interrupted_and_resumed_it_has_the_same_bytes(
    tiny: Tiny, tiny_store: TokenStore, tmp_path: Path, architecture: str, optimiser: str
) -> None:
    config = tiny(architecture, training={"optimiser": optimiser})
    whole = train(on_gpu(config, tmp_path / "whole"), tiny_store)
    parted = on_gpu(config, tmp_path / "parted")

    def interrupt(record: StepRecord) -> None:
        if record.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parted, tiny_store, on_step=interrupt, checkpoint_every=5)
    train(parted, tiny_store, resume_from="auto")
    left, right = (load_file(folder / "model.safetensors") for folder in (whole.folder, parted.output))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}, {"activation_checkpointing": True, "micro_batch": 2}])
def test_the_other_ways_to_compute(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path, options: dict[str, Any]) -> None:
    config = tiny("EReg(SM(t)+ScFuFFN)", training={"steps": 60, "learning_rate": 1e-2})
    result = train(on_gpu(config, tmp_path / "gpu", **options), tiny_store)
    assert result.evaluation.loss_nats < 3.0


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_over_nccl(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path, parallel: str) -> None:
    """One process and one GPU: the group, its sums and the sharded checkpoint, not their speed."""
    config = tiny("EReg(SM(t)+ScFuFFN)")
    alone = train(on_gpu(config, tmp_path / "alone"), tiny_store)
    settings = tmp_path / "run.yaml"
    settings.write_text(json.dumps(on_gpu(config, tmp_path / "ranks", parallel=parallel).to_dict()))
    done = torchrun("-m", "hushlm", "train", "--config", str(settings), "--progress", "none", "--json", processes=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["validation_perplexity"] == pytest.approx(alone.evaluation.perplexity, rel=1e-4)


def test_preempted_runs_keep_their_checkpoint(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path) -> None:
    config = on_gpu(tiny(), tmp_path / "gpu")

    def end(record: StepRecord) -> None:
        if record.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        train(config, tiny_store, on_step=end)
    assert load_checkpoint(config.output).step == 5
