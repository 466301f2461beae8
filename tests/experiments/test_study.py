from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.experiments.experiment import ONE_RATE, Experiment, Row, with_changes
from hushlm.experiments.launch import commands, launch
from hushlm.experiments.paper.tables import EXPERIMENTS
from hushlm.experiments.runs import Job, RunRecord, read_record, run, run_key
from hushlm.experiments.scales import PAPER_SCALES, Scale
from hushlm.experiments.study import Study, conduct

PAIR = Experiment(
    "fig7", "two rows", (Row("SM+R"), Row("SM+R", (("training.warmup_steps", 2),), "longer warm-up"), Row("SM", (), "wild", stress=True))
)


def here(jobs: list[Job]) -> None:
    for job in jobs:
        run(job)


def test_every_row_is_an_architecture_at_every_scale() -> None:
    for scale in PAPER_SCALES.values():
        for experiment in EXPERIMENTS.values():
            sized = experiment.sized(scale.base)
            for row in experiment.rows:
                name = row.name(sized.shape.layers)
                assert str(parse(name)) == name
                with_changes(sized, row.changes)


def test_sizes_follow_the_paper_and_keep_the_tokens_of_a_step() -> None:
    base = PAPER_SCALES["paper"].base
    assert EXPERIMENTS["table8"].sized(base).shape.layers == 18
    assert EXPERIMENTS["table4"].sized(base).shape.context == 512
    for name in ("table4", "table7"):
        sized = EXPERIMENTS[name].sized(base)
        assert sized.training.batch * sized.shape.context == base.training.batch * base.shape.context


def test_a_run_is_known_by_what_it_computes() -> None:
    config = RunConfig()
    assert run_key(replace(config, output=Path("elsewhere"))) == run_key(config)
    assert run_key(replace(config, training=replace(config.training, threads=1))) == run_key(config)
    assert run_key(replace(config, architecture="SM+R")) != run_key(config)
    assert run_key(replace(config, training=replace(config.training, seed=1))) != run_key(config)
    assert run_key(with_changes(config, (("entropy.tolerance", config.entropy.tolerance),))) == run_key(config)


def test_every_row_is_tuned_alike_and_measured_over_seeds(tiny_scale: Scale, tmp_path: Path) -> None:
    study = Study([PAIR], tiny_scale, tmp_path)
    rounds: list[list[tuple[str, float, int]]] = []

    def make(jobs: list[Job]) -> None:
        rounds.append([(j.config.architecture, j.config.training.learning_rate, j.config.training.seed) for j in jobs])
        here(jobs)

    remaining = study.remaining()
    conduct(study, make)
    assert rounds[0] == [("SM+R", 1e-3, 0), ("SM+R", 1e-2, 0), ("SM", 1e-2, 0)]
    assert study.remaining() == 0
    [outcome] = study.outcomes()
    plain, changed, wild = outcome.rows
    best = min(plain.sweep, key=lambda rate: plain.sweep[rate] or float("inf"))
    assert plain.learning_rate == best == changed.learning_rate
    assert [record.seed for record in plain.runs] == [0, 1]
    assert [record.settings["training"]["warmup_steps"] for record in changed.runs] == [2, 2]
    # The tuned seed 0 is not trained a second time, and the changed row needs both seeds.
    assert sum(len(jobs) for jobs in rounds) == 3 + 1 + 2
    assert remaining >= 3 + 1
    assert len(wild.runs) == 1
    assert outcome.complete
    assert outcome.find("SM+R", "longer warm-up") is changed


def test_finished_runs_are_never_made_again(tiny_scale: Scale, tmp_path: Path) -> None:
    study = Study([PAIR], tiny_scale, tmp_path)
    jobs = study.pending()
    here(jobs[:1])
    before = jobs[0].record.stat().st_mtime_ns
    again = Study([PAIR], tiny_scale, tmp_path)
    assert [job.record for job in again.pending()] == [job.record for job in jobs[1:]]
    run(jobs[0])
    assert jobs[0].record.stat().st_mtime_ns == before


def test_a_record_of_other_settings_is_refused(tiny_scale: Scale, tmp_path: Path) -> None:
    job = Study([PAIR], tiny_scale, tmp_path).pending()[0]
    run(job)
    record = json.loads(job.record.read_text())
    record["settings"]["training"]["seed"] = 5
    job.record.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"is the record of other settings: remove its folder"):
        read_record(job)
    job.record.write_text("{}")
    with pytest.raises(ValueError, match=r"is not a run's record: remove its folder"):
        read_record(job)


def test_a_stopped_run_is_an_outcome(tiny_scale: Scale, tmp_path: Path) -> None:
    changes = (("training.learning_rate", 1e4), ("training.steps", 200), ("training.clip_norm", None), ("training.warmup_steps", 0))
    config = with_changes(replace(tiny_scale.base, architecture="SM+G"), changes)
    record = run(Job.of(config, tmp_path, 2, None))
    assert record.stopped_at_step is not None
    assert record.reason
    assert record.test_perplexity is None


def test_an_unknown_setting_is_named(tiny_scale: Scale) -> None:
    with pytest.raises(ValueError, match=r"There is no setting training.stepz"):
        with_changes(tiny_scale.base, (("training.stepz", 1),))


def test_a_run_made_by_its_printed_command_is_taken_over(tiny_scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor: without torchrun and its GPU options."""
    job = Study([PAIR], tiny_scale, tmp_path).pending()[0]
    [line] = commands([job])
    words = shlex.split(line)
    assert words[:5] == ["torchrun", "--nproc-per-node", "gpu", "-m", "hushlm"]
    options = words[5 : words.index("--training.device")]
    assert main([*options, "--progress", "none"]) == 0
    monkeypatch.setattr("hushlm.training.loop._Run.update", None)  # nothing is trained any more
    record = run(job)
    assert record.test_perplexity is not None
    assert record == read_record(job)


@pytest.mark.slow
def test_processes_give_the_records_of_one_process(tiny_scale: Scale, tmp_path: Path) -> None:
    jobs = Study([PAIR], tiny_scale, tmp_path / "apart").pending()
    found = {job.record.parent.name: record for job, record in launch(jobs, "local", 2)}
    for job in Study([PAIR], tiny_scale, tmp_path / "here").pending():
        record = run(job)
        other = found[job.record.parent.name]
        assert record.test_perplexity == other.test_perplexity
        assert record.head_entropy_nats == other.head_entropy_nats


@pytest.mark.slow
def test_a_failure_in_a_process_is_the_callers(tiny_scale: Scale, tmp_path: Path) -> None:
    missing = replace(tiny_scale.base, data=replace(tiny_scale.base.data, corpus=str(tmp_path / "nowhere"), cache=tmp_path / "data"))
    with pytest.raises(ValueError, match="nowhere"):
        list(launch([Job.of(missing, tmp_path, 1, None)], "local", 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_records_of_one_process(tiny_scale: Scale, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs = Study([PAIR], tiny_scale, tmp_path / "ray").pending()[:2]
    found = {job.record.parent.name: record for job, record in launch(jobs, "ray", 2)}
    for job in Study([PAIR], tiny_scale, tmp_path / "here").pending()[:2]:
        assert run(job).test_perplexity == found[job.record.parent.name].test_perplexity


@pytest.mark.slow
def test_a_killed_command_leaves_no_run_behind(tmp_path: Path) -> None:
    options = ["--steps", "100000", "--seeds", "1", "--parallel", "1", "--runs", str(tmp_path)]
    command = subprocess.Popen([sys.executable, "-m", "hushlm", "reproduce", "fig6", *options], stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        children = psutil.Process(command.pid).children
        deadline = time.monotonic() + 60
        while not any(child.cpu_times().user > 2 for child in children()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        runs = children()
    finally:
        command.kill()
        command.wait()
    _, alive = psutil.wait_procs(runs, timeout=10)
    assert alive == []


def fake_records(monkeypatch: pytest.MonkeyPatch, perplexity: Callable[[str, float], float | None]) -> None:
    """Let every job be finished, with a validation perplexity of its architecture and learning rate."""

    def read(job: Job) -> RunRecord | None:
        rate = job.config.training.learning_rate
        found = perplexity(job.config.architecture, rate)
        return RunRecord(
            architecture=job.config.architecture,
            settings=job.config.to_dict(),
            corpus={},
            stopped_at_step=None if found else 3,
            collapsed_layers=[],
            reason="",
            validation_perplexity=found,
            test_perplexity=found,
            head_entropy_nats=None,
            course={},
            thresholds=None,
            cpu_seconds=None,
            versions={},
        )

    monkeypatch.setattr("hushlm.experiments.study.read_record", read)


def test_rows_at_one_rate_have_the_one_that_is_best_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the best of any: at the highest rate one row is best, and the other one diverges."""
    scale = replace(PAPER_SCALES["small"], learning_rates=(1e-3, 2e-3, 4e-3), seeds=2)
    table: dict[str, dict[float, float | None]] = {
        "SM+R": {1e-3: 8.0, 2e-3: 7.0, 4e-3: 6.0},
        "SM": {1e-3: 7.0, 2e-3: 7.5, 4e-3: None},
        "SM+G": {1e-3: 1.0, 2e-3: 9.0, 4e-3: 9.0},
    }
    fake_records(monkeypatch, lambda architecture, rate: table[architecture][rate])
    experiment = Experiment("table3", "", (Row("SM+R"), Row("SM"), Row("SM+G")), one_rate_too=("SM+R", "SM"))
    [outcome] = Study([experiment], scale, tmp_path).outcomes()
    rates = {(row.row.architecture, row.row.label): row.learning_rate for row in outcome.rows}
    assert rates == {
        ("SM+R", ""): 4e-3,
        ("SM", ""): 1e-3,
        ("SM+G", ""): 1e-3,
        ("SM+R", ONE_RATE): 2e-3,  # 7 x 7.5 is less than 8 x 7
        ("SM", ONE_RATE): 2e-3,
    }
    assert outcome.complete
    [once] = Study([experiment], replace(scale, one_rate_too=False), tmp_path).outcomes()
    assert not [row for row in once.rows if row.row.one_rate]


def test_finished_leaves_out_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "table5", "--finished"]) == 2
    assert capsys.readouterr().err == "hushlm: No row of table5 is finished: run it without --finished first.\n"
    assert not list(tmp_path.rglob("*.json"))
