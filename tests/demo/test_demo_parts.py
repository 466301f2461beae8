"""Parts of the demo that decide something: which prompt, which row answers, and what becomes of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.demo import jobs
from hushlm.demo.demo_rows import DemoRow, choose, rows_table
from hushlm.demo.demo_settings import REFERENCE, ROWS, DemoSettings
from hushlm.demo.jobs import run_all
from hushlm.demo.private_answer import choose_prompt
from hushlm.report.run_progress import RunsProgress


def row(name: str, perplexity: float | None, predicted_bytes: int) -> DemoRow:
    return DemoRow(name, perplexity, perplexity, None, None if perplexity else 7, ("SM: 1 x R^2x2",), 0.1, 0.2, predicted_bytes, 1.0)


def test_the_cheapest_row_as_good_as_the_reference_answers() -> None:
    rows = [row("SM+LN+G", 6.0, 900), row("SM+ScFuFFN", 8.0, 100), row(REFERENCE, 7.0, 150), row("SM2+R", 6.5, 120)]
    assert choose(rows, REFERENCE, None)[0].name == "SM2+R"
    assert choose(rows[:3], REFERENCE, None)[0].name == REFERENCE
    assert choose(rows, REFERENCE, "SM+LN+G")[0].name == "SM+LN+G"


def test_a_row_that_diverged_cannot_answer() -> None:
    rows = [row("SM+LN+G", 6.0, 900), row(REFERENCE, None, 150)]
    assert choose(rows, REFERENCE, None)[0].name == "SM+LN+G"
    with pytest.raises(ValueError, match=r"no checkpoint to answer with: choose one of SM\+LN\+G"):
        choose(rows, REFERENCE, REFERENCE)
    with pytest.raises(ValueError, match="Every run diverged"):
        choose([row(REFERENCE, None, 150)], REFERENCE, None)
    table = rows_table(rows, "t").to_markdown()
    assert "| SM+LN+G | 6.00 | 6.00 | - | - | - |" in table


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_the_prompt_is_a_stretch_of_held_out_text(tiny: Callable[..., RunConfig], tokenizer: str) -> None:
    store = open_token_store(tiny(data={"tokenizer": tokenizer}).data)
    split = store.tokens["validation"]
    prompts = [choose_prompt(split, store.tokenizer, 24, seed) for seed in range(3)]
    assert len({tuple(prompt) for prompt in prompts}) > 1
    whole = store.tokenizer.decode(split[:].tolist())
    for prompt in prompts:
        assert len(prompt) == 24
        text = store.tokenizer.decode(prompt)
        assert f"\n{text}" in whole
        assert store.tokenizer.encode(text).ids == prompt
    assert choose_prompt(split, store.tokenizer, 24, 0) == prompts[0]
    assert store.tokenizer.decode(choose_prompt(split, store.tokenizer, 24, 0, ("3", "7")))[0] in "37"
    with pytest.raises(ValueError, match="no stretch of 100000"):
        choose_prompt(split, store.tokenizer, 100_000, 0)


def test_runs_go_on_at_once_and_end_as_they_should(tiny: Callable[..., RunConfig], tiny_store: TokenStore, tmp_path: Path) -> None:
    config = tiny()
    good = replace(config, output=tmp_path / "good")
    wild = replace(config.training, learning_rate=1e6, clip_norm=None, warmup_steps=0, steps=60)
    bad = replace(config, architecture="SM", training=wild, output=tmp_path / "bad")
    outcomes = run_all({"good": good, "bad": bad}, tmp_path / "logs", parallel=2)
    assert outcomes["good"].stopped_at_step is None
    assert outcomes["good"].metrics[-1]["step"] == 12
    assert "validation_perplexity" in outcomes["good"].metrics[-1]
    assert outcomes["bad"].stopped_at_step is not None
    assert f"before update {outcomes['bad'].stopped_at_step}" in outcomes["bad"].reason


def test_a_run_that_cannot_be_made_stops_the_others(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    popen = jobs.subprocess.Popen

    def note(*args: object, **options: object) -> object:
        process = popen(*args, **options)  # type: ignore[call-overload]
        started.append(process.pid)
        return process

    monkeypatch.setattr(jobs.subprocess, "Popen", note)
    config = tiny(training={"steps": 1_000_000})
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("mine")
    endless = replace(config, output=tmp_path / "endless")
    with pytest.raises(ValueError, match=r"The run of refused failed, .*hushlm did not write"):
        run_all({"endless": endless, "refused": config, "waiting": endless}, tmp_path / "logs", parallel=2)
    assert len(started) == 2, "what waited was not started"
    deadline = time.monotonic() + 20
    while any(_alive(process) for process in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(process) for process in started)


def test_interrupting_leaves_no_process(tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def update(self: RunsProgress, name: str, step: int, note: str) -> None:
        raise KeyboardInterrupt

    popen = jobs.subprocess.Popen

    def note(*args: object, **options: object) -> object:
        process = popen(*args, **options)  # type: ignore[call-overload]
        started.append(process.pid)
        return process

    monkeypatch.setattr(jobs.subprocess, "Popen", note)
    monkeypatch.setattr(RunsProgress, "update", update)
    with pytest.raises(KeyboardInterrupt):
        run_all({"endless": tiny(training={"steps": 1_000_000})}, tmp_path / "logs", parallel=1)
    deadline = time.monotonic() + 20
    while any(_alive(process) for process in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started
    assert not any(_alive(process) for process in started)


def test_the_rows_share_one_budget(tmp_path: Path) -> None:
    settings = DemoSettings.full(tmp_path, 3, 1200, "bytes")
    configs = [settings.row_config(name) for name in ROWS]
    assert {config.training for config in configs} == {settings.training}
    assert {config.shape for config in configs} == {settings.shape}
    assert len({config.output for config in configs}) == len(ROWS)
    assert settings.training.seed == 3
    assert settings.prompt_tokens + settings.new_tokens <= settings.shape.context
    quick = DemoSettings.quick(tmp_path, 3, 30, "bytes")
    assert quick.prompt_tokens + quick.new_tokens <= quick.shape.context


def _alive(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
