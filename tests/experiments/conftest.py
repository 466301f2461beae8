"""A scale at which a run takes a second, on a corpus of a few files."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hushlm.config import DataConfig, EntropyConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.experiments.scales import Scale


@pytest.fixture(scope="session")
def tiny_scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    folder = tmp_path_factory.mktemp("experiments")
    corpus = folder / "corpus"
    corpus.mkdir()
    words = random.Random(0)
    for index in range(60):
        text = "".join(words.choice(["def f(x):\n", "    return x\n", "import os\n", "y = f(1)\n"]) for _ in range(40))
        (corpus / f"{index}.py").write_text(text)
    training = TrainingConfig(
        steps=6, batch=4, warmup_steps=1, evaluate_every=6, evaluation_batches=2, watch_every=2, threads=1, learning_rate=1e-2
    )
    base = RunConfig(
        shape=ModelShape(layers=2, heads=2, width=16, context=16),
        data=DataConfig(corpus=str(corpus), cache=folder / "data", validation_share=0.2),
        training=training,
        entropy=EntropyConfig(),
    )
    stress = replace(base, training=replace(training, steps=4, clip_norm=None, evaluate_every=4))
    return Scale(name="micro", base=base, learning_rates=(1e-3, 1e-2), seeds=2, stress=stress, evaluation_batches=4)
