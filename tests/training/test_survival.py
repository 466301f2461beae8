"""A run survives anything: killed at any moment, told to stop, out of space. It goes on to the bytes of an uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hushlm.files.manifest as manifest
from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.files import current_folder
from hushlm.training import load_checkpoint, train

Tiny = Callable[..., RunConfig]
PAPER = "EReg(SM(t)+ScFuFFN)"


def everything(config: RunConfig) -> dict[str, bytes]:
    """Every file a run leaves beside and in its checkpoint, hidden remains included."""
    base = config.output.parent
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()}


def within(tiny: Tiny, folder: Path, architecture: str = PAPER, **training: Any) -> RunConfig:
    """A run with a folder of its own."""
    settings = {"steps": 10, "evaluate_every": 4, "watch_every": 2, "evaluation_batches": 2, **training}
    return replace(tiny(architecture, training=settings), output=folder / "checkpoint")


class Survivor:
    """`survivor.py` at work."""

    def __init__(self, folder: Path) -> None:
        self._report = folder / "report.json"
        script = str(Path(__file__).with_name("survivor.py"))
        self._process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, config: RunConfig, **job: Any) -> int:
        """Start a training process. Returns: its id."""
        assert self._process.stdin is not None
        self._report.unlink(missing_ok=True)
        job = {"config": config.to_dict(), "every": 2, "report": str(self._report), **job}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return int(self._line())

    def end(self) -> tuple[int, dict[str, Any]]:
        """Exit code, and what the process reported."""
        code = int(self._line())
        return code, json.loads(self._report.read_text()) if self._report.exists() else {}

    def run(self, config: RunConfig, **job: Any) -> tuple[int, dict[str, Any]]:
        self.start(config, **job)
        return self.end()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    survivor = Survivor(tmp_path_factory.mktemp("survivor"))
    yield survivor
    survivor.close()


@pytest.mark.slow
def test_killed_at_twenty_random_moments(survivor: Survivor, tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    """Ten kills by the clock, from outside; ten before a random file operation, most of which belong to a save."""
    whole = within(tiny, tmp_path / "whole")
    train(whole, tiny_store)  # no checkpoint on the way, no interruption
    expected = everything(whole)

    begin = time.monotonic()
    code, report = survivor.run(within(tiny, tmp_path / "measured"))
    seconds = time.monotonic() - begin
    assert code == 0
    operations = report["operations"]
    assert operations > 100
    assert everything(within(tiny, tmp_path / "measured")) == expected

    generator = random.Random(0)
    killed, trial, steps_kept = 0, 0, set()
    while killed < 20:
        trial += 1
        assert trial < 60
        config = within(tiny, tmp_path / f"trial{trial}")
        if trial % 2:
            code, _ = survivor.run(config, die_at=generator.randint(1, operations))
        else:
            process = survivor.start(config)
            time.sleep(generator.uniform(0, seconds))
            with suppress(ProcessLookupError):  # the run was faster than the one measured
                os.kill(process, signal.SIGKILL)
            code, _ = survivor.end()
        if code == -signal.SIGKILL:
            killed += 1
        else:
            seconds *= 0.8
        kept = current_folder(config.output)
        steps_kept.add(load_checkpoint(kept).step if kept.exists() else 0)
        code, _ = survivor.run(config)
        assert code == 0, trial
        assert everything(config) == expected, trial
        shutil.rmtree(config.output.parent)
    assert len(steps_kept) >= 3  # early and late ones


@pytest.mark.slow
def test_killed_before_each_of_the_first_operations(survivor: Survivor, tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    """Those that try the folder and begin the live rows, of a new run and of one that goes on: no remains of either stay."""
    whole = within(tiny, tmp_path / "whole", steps=4)
    train(whole, tiny_store)
    for begun in (False, True):
        for number in range(1, 16):
            config = within(tiny, tmp_path / f"{begun}{number}", steps=4)
            if begun:
                assert survivor.run(config, die_at=80)[0] == -signal.SIGKILL
                assert load_checkpoint(current_folder(config.output)).step == 2
            assert survivor.run(config, die_at=number)[0] == -signal.SIGKILL
            assert survivor.run(config)[0] == 0
            assert everything(config) == everything(whole), (begun, number)


@pytest.mark.slow
def test_killed_again_and_again(survivor: Survivor, tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    """One run, killed before file operation 90 of every attempt: it gets to its end, and a saved step is never lost."""
    whole = within(tiny, tmp_path / "whole", "SM+SNorm(QK)")
    train(whole, tiny_store)
    config = within(tiny, tmp_path / "again", "SM+SNorm(QK)")
    steps, code = [0], -9
    while code:
        assert len(steps) < 20
        code, _ = survivor.run(config, die_at=90)
        kept = current_folder(config.output)
        steps.append(load_checkpoint(kept).step if kept.exists() else 0)
    assert steps == sorted(steps)
    assert len(steps) > 3
    assert everything(config) == everything(whole)


@pytest.mark.slow
def test_sigterm_saves_and_ends_well(survivor: Survivor, tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    """At the second live row, where no checkpoint is being written."""
    whole = within(tiny, tmp_path / "whole")
    train(whole, tiny_store)
    config = within(tiny, tmp_path / "stopped")
    code, report = survivor.run(config, every=None, die_at=13, signal=signal.SIGTERM)
    assert code == 0
    assert 0 < report["stopped"] < 10
    assert load_checkpoint(config.output).step == report["stopped"]
    assert survivor.run(config)[0] == 0
    assert everything(config) == everything(whole)


@pytest.mark.slow
def test_the_command_goes_on_after_signals(tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    """SIGTERM, then SIGKILL, then to the end."""
    whole = within(tiny, tmp_path / "whole", steps=600, watch_every=50, evaluate_every=200)
    train(whole, tiny_store)
    config = replace(whole, output=tmp_path / "command" / "checkpoint")
    settings = tmp_path / "run.yaml"
    settings.write_text(json.dumps(config.to_dict()))
    options = ["--config", str(settings), "--resume", "auto", "--checkpoint_every", "100", "--progress", "json"]
    command = [sys.executable, "-m", "hushlm", "train", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    stopped_at = 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["step"] == stopped_at + 1  # the first step is told at once
            process.send_signal(number)
            events = [json.loads(line) for line in process.stdout]
            error = process.stderr.read()
        if number == signal.SIGTERM:
            assert process.returncode == 0
            assert events[-1]["event"] == "stopped"
            assert f"after step {events[-1]['step']}; its checkpoint is" in error
            stopped_at = events[-1]["step"]
        else:
            assert process.returncode == -signal.SIGKILL
    assert load_checkpoint(current_folder(config.output)).step >= stopped_at
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
    assert {name: data for name, data in everything(config).items() if name != "checkpoint.run.yaml"} == everything(whole)


@pytest.mark.slow
def test_no_room_for_a_checkpoint(survivor: Survivor, tiny: Tiny, tmp_path: Path, tiny_store: TokenStore) -> None:
    whole = within(tiny, tmp_path / "whole")
    train(whole, tiny_store)
    config = within(tiny, tmp_path / "full")
    code, report = survivor.run(config, file_limit=10_000)  # from the start
    assert code == 2
    assert "step 2 could not be written" in report["sentence"]
    assert "there is none before it" in report["sentence"]
    assert survivor.run(config, die_at=80)[0] == -signal.SIGKILL
    before = load_checkpoint(current_folder(config.output)).step
    assert before > 0
    code, report = survivor.run(config, file_limit=10_000)  # on the way
    assert code == 2
    assert f"that of step {before} is whole. Make room and go on" in report["sentence"]
    assert "\n" not in report["sentence"]
    assert load_checkpoint(config.output).step == before
    assert survivor.run(config)[0] == 0
    assert everything(config) == everything(whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o555, 0o600], ids=["closed to writing", "not to be entered"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(survivor: Survivor, tiny: Tiny, mode: int) -> None:
    # Not below pytest's own folders, which only their owner may enter: root gives up its rights for this test.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        config = within(tiny, Path(folder) / "closed")
        config.output.parent.mkdir()
        config.output.parent.chmod(mode)
        begin = time.monotonic()
        code, _ = survivor.run(replace(config, training=replace(config.training, steps=100_000)), nobody=os.getuid() == 0)
        assert code == 2
        assert time.monotonic() - begin < 30
        config.output.parent.chmod(0o755)
        assert list(config.output.parent.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", [1, 6, 14])
def test_a_failing_disk_while_saving(
    tiny: Tiny, tmp_path: Path, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    """The save at step 8 fails at its first, a middle and its last sync; the one of step 4 stays whole, and the run goes on from it."""
    whole = within(tiny, tmp_path / "whole", steps=9)
    train(whole, tiny_store)
    config = within(tiny, tmp_path / "failing", steps=9)
    sync, step, calls = os.fsync, 0, 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += step == 8
        if calls == call and step == 8:
            raise OSError(number, os.strerror(number))
        sync(handle)

    def note(record: Any) -> None:
        nonlocal step
        step = record.step

    monkeypatch.setattr(manifest.os, "fsync", failing)
    with pytest.raises(ValueError, match=f"step 8 could not be written .*{os.strerror(number)}.*that of step 4 is whole"):
        train(config, tiny_store, checkpoint_every=4, on_step=note)
    assert load_checkpoint(config.output).step == 4
    monkeypatch.undo()
    train(config, tiny_store, resume_from="auto")
    assert everything(config) == everything(whole)


def test_auto_starts_anew_where_there_is_nothing(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER)
    config.output.mkdir()  # empty
    assert len(train(config, tiny_store, resume_from="auto").metrics) > 3


def test_auto_refuses_what_is_not_this_run_and_touches_nothing(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path) -> None:
    config = within(tiny, tmp_path / "kept")
    train(config, tiny_store)
    before = everything(config)
    changed = replace(config, training=replace(config.training, learning_rate=1.0))
    with pytest.raises(ValueError, match=r"training\.learning_rate = 0\.005, not 1\.0"):
        train(changed, tiny_store, resume_from="auto")
    with pytest.raises(ValueError, match="other tokens"):
        train(config, replace(tiny_store, fingerprint="0" * 64), resume_from="auto")
    assert everything(config) == before
    weights = config.output / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 7)
    before = everything(config)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged") as caught:
        train(config, tiny_store, resume_from="auto")
    assert "\n" not in str(caught.value)
    assert everything(config) == before


def test_how_a_run_is_computed_may_change_on_the_way(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path) -> None:
    config = within(tiny, tmp_path / "kept")
    train(config, tiny_store)
    other = replace(config.training, micro_batch=2, activation_checkpointing=True, threads=2)
    data = replace(config.data, workers=2)
    assert train(replace(config, training=other, data=data), tiny_store, resume_from="auto").evaluation.tokens > 0


def test_every_ranks_random_state_is_saved(tiny: Tiny, tiny_store: TokenStore) -> None:
    from hushlm.training import load_training_state

    config = tiny(PAPER)
    train(config, tiny_store)
    state = load_training_state(load_checkpoint(config.output))
    assert state.random_state.shape[0] == 1
    assert state.random_state.dtype == torch.uint8
    progress = json.loads((config.output / "state/progress.json").read_text())
    assert progress["metrics_bytes"] == (config.output / "metrics.jsonl").stat().st_size


def test_the_store_of_a_killed_build_is_built_again(tiny: Tiny, tmp_path: Path) -> None:
    config = replace(tiny().data, cache=tmp_path / "cache")
    code = "import os, signal, sys, json\nfrom hushlm.config import RunConfig\nfrom hushlm.data import open_token_store\n"
    code += "data = RunConfig.from_dict({'data': json.loads(sys.argv[1])}).data\n"
    code += "open_token_store(data, lambda done, total: os.kill(os.getpid(), signal.SIGKILL))"
    values = json.dumps({"corpus": config.corpus, "validation_share": 0.1, "cache": str(config.cache)})
    done = subprocess.run([sys.executable, "-c", code, values])
    assert done.returncode == -signal.SIGKILL
    assert all(path.name.startswith(".") for path in config.cache.iterdir())
    assert open_token_store(config).documents == 40
    assert len(list(config.cache.iterdir())) == 1
