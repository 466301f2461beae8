"""What a report reads: finished runs, running ones, diverged ones, measurements; and one sentence for everything else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.files import write_manifest
from hushlm.report.page.run_record import read_run, read_runs
from hushlm.training import train

Tiny = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A run of six steps, with the files that `hushlm train` leaves beside it."""
    base = tmp_path_factory.mktemp("trained")
    config = RunConfig.from_dict(
        {
            "architecture": "EReg(SM(t)+ScFuFFN)",
            "shape": {"layers": 2, "heads": 2, "width": 16, "context": 32},
            "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(base / "data")},
            "training": {"steps": 6, "batch": 4, "watch_every": 2, "evaluation_batches": 2, "threads": 1},
            "output": str(base / "mine"),
        }
    )
    train(config, open_token_store(config.data))
    (base / "mine.run.yaml").write_text(yaml.safe_dump(config.to_dict()))
    return base / "mine"


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and of what lies beside it, to change."""
    shutil.copytree(trained.parent, tmp_path / "runs", ignore=shutil.ignore_patterns("data"))
    return tmp_path / "runs" / "mine"


def touched_last(path: Path) -> None:
    newest = max(file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file())
    os.utime(path, ns=(newest + 10**9, newest + 10**9))


def test_a_finished_run(trained: Path) -> None:
    run = read_run(trained)
    assert (run.name, run.architecture, run.end) == ("mine", "EReg(SM(t)+ScFuFFN)", "finished")
    assert run.shape is not None
    assert (run.shape.layers, run.shape.heads, run.context) == (2, 2, 32)
    assert [row["step"] for row in run.rows] == [1, 2, 4, 6]
    assert run.settings["training.steps"] == 6
    assert run.corpus is not None


def test_a_run_without_what_lies_beside_it(place: Path) -> None:
    for name in ("mine.run.yaml", "mine.metrics.jsonl"):
        (place.parent / name).unlink()
    assert read_run(place).rows == read_run(place).rows
    assert read_run(place).end == "finished"


def test_a_run_that_goes_on(place: Path) -> None:
    shutil.rmtree(place)
    live = place.with_name("mine.metrics.jsonl")
    lines = live.read_text().splitlines(keepends=True)
    live.write_text("".join(lines[:2]) + lines[2][:30])  # caught in the middle of a line
    run = read_run(place)
    assert [row["step"] for row in run.rows] == [1, 2]
    assert run.end == "not at its end"
    assert run.shape is not None


def test_a_run_that_diverged_after_a_checkpoint(place: Path) -> None:
    rows = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
    diverged = place.with_name("mine.diverged.jsonl")
    diverged.write_text("".join(rows[:3]))
    touched_last(diverged)
    run = read_run(place)
    assert run.end == "diverged"
    assert [row["step"] for row in run.rows] == [1, 2, 4]


def test_a_measurement(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["entropy", str(trained), "--batches", "1", "--json"]) == 0
    (tmp_path / "measured.json").write_text(capsys.readouterr().out)
    run = read_run(tmp_path / "measured.json")
    assert (run.end, run.shape, run.context) == ("measured", None, 32)
    assert len(run.rows[0]["head_entropy_nats"]) == 2


def test_runs_get_names_that_tell_them_apart(place: Path, trained: Path) -> None:
    first, second = (run.name for run in read_runs([place, trained]))
    assert first == "runs/mine"
    assert second.endswith("/mine")
    assert first != second


def refused(*words: str) -> str:
    """What the command says of a mistake, and that it says one sentence."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["report", *words]) == 2
    text = said.getvalue()
    assert text.startswith("hushlm: ")
    assert text.count("\n") == 1
    return text


def test_what_is_not_a_run(trained: Path, place: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    output = f"--output={page}"
    assert "There is no run" in refused(str(tmp_path / "nothing"), output)
    assert "is not a measurement" in refused(str(trained / "config.json"), output)
    assert "is not a measurement" in refused(str(trained / "model.safetensors"), output)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    assert "not written by hushlm" in refused(str(tmp_path / "folder"), output)
    assert "named twice" in refused(str(trained), str(trained.parent / "." / "mine"), output)
    assert "needs RUNS" in refused(output)
    (place / "metrics.jsonl").write_text("{}\n")
    assert "damaged or was altered" in refused(str(place), output)
    (place / "manifest.json").unlink()
    write_manifest(place)
    os.utime(place.with_name("mine.metrics.jsonl"), (0, 0))
    assert "does not hold the rows of this run's training" in refused(str(place), output)
    assert not page.exists()


def test_no_row_yet(place: Path, tmp_path: Path) -> None:
    (place / "metrics.jsonl").write_text("")
    (place / "manifest.json").unlink()
    write_manifest(place)
    os.utime(place.with_name("mine.metrics.jsonl"), (0, 0))
    assert "has no recorded step yet" in refused(str(place), f"--output={tmp_path / 'page.html'}")


def test_an_output_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    assert "is a folder" in refused(str(trained), f"--output={tmp_path}")
    (tmp_path / "file").write_text("kept")
    refused(str(trained), f"--output={tmp_path / 'file' / 'page.html'}")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("heads", [[], [[]], [[1.0], [1.0, 2.0]], [["a"]], "text", None])
def test_a_file_that_is_nearly_a_measurement(heads: object, tmp_path: Path) -> None:
    verdict = {"overload": False, "overloaded_layers": [], "collapse": False, "collapsed_layers": [], "share_per_range": [0, 0, 0, 1]}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"architecture": "SM", "context": 16, "head_entropy_nats_LH": heads, **verdict}))
    assert "is not a measurement" in refused(str(path), f"--output={tmp_path / 'page.html'}")
