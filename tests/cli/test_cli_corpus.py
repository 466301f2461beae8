"""`hushlm train` says what the corpus gave, writes where it may, and is alone there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
import yaml

from hushlm.cli.entropy import _advice
from hushlm.cli.main import main
from hushlm.config import DataConfig, RunConfig
from hushlm.data import open_corpus
from hushlm.data.corpus import Corpus
from hushlm.entropy import summarise
from hushlm.experiments.runs import Job, RunRecord
from hushlm.experiments.scales import PAPER_SCALES
from hushlm.files import write_manifest
from hushlm.training import load_checkpoint


@pytest.fixture
def settings(tiny: Callable[..., RunConfig], tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny(training={"steps": 4, "evaluate_every": 2}).to_dict()))
    return path


def test_what_the_corpus_gave_is_said_and_stands_in_the_document(
    settings: Path, tmp_path: Path, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in text_folder.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    (corpus / "latin.txt").write_bytes(b"caf\xe9")
    (corpus / "notes.rst").write_text("not asked for")
    assert main(["train", "--config", str(settings), "--data.corpus", str(corpus), "--json"]) == 0
    out, err = capsys.readouterr()
    given = json.loads(out)["corpus"]
    assert (given["documents"], given["left_out"], given["not_read"]) == (40, {"not UTF-8": 1}, {".rst": 1})
    lines = [line for line in err.splitlines() if line.startswith("corpus: ")]
    assert len(lines) == 1
    assert lines[0].endswith("left out: 1 not UTF-8; not read: 1 .rst.")
    assert "Warning: 2.4% of corpus was left out" in err
    assert main(["train", "--config", str(settings), "--data.corpus", str(corpus), "--progress", "none"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["Warning"]


def test_the_second_of_two_trainings_is_refused(settings: Path, tiny: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    output = tiny().output
    code = "import sys\nfrom pathlib import Path\nfrom hushlm.files import one_writer\n"
    code += "with one_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(["train", "--config", str(settings)]) == 2
        other.kill()
    err = capsys.readouterr().err
    assert "Another process is writing to" in err
    assert not output.with_name(f"{output.name}.run.yaml").exists()
    assert main(["train", "--config", str(settings), "--progress", "none"]) == 0
    assert [path.name for path in output.parent.iterdir() if "lock" in path.name] == []


def test_an_output_that_is_a_link(settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "checkpoint")
    words = ["train", "--config", str(settings), "--output", str(link), "--progress", "none", "--checkpoint-every", "1"]
    assert main(words) == 0
    assert main([*words, "--resume", "auto"]) == 0
    assert link.is_symlink()
    assert load_checkpoint(link).step == load_checkpoint(tmp_path / "far" / "checkpoint").step == 4


def test_a_checkpoint_whose_tokenizer_carries_state(settings: Path, tiny: Callable[..., RunConfig]) -> None:
    """As older versions saved it: its files and their hashes stay, and all text is read."""
    assert main(["train", "--config", str(settings), "--progress", "none"]) == 0
    folder = tiny().output
    path = folder / "tokenizer.json"
    library = tokenizers.Tokenizer.from_file(str(path))
    library.enable_truncation(max_length=3)
    library.save(str(path))
    manifest = write_manifest(folder)
    assert load_checkpoint(folder).tokenizer.encode("more than three").ids == list(b"more than three")
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_entropy_says_what_a_verdict_means() -> None:
    overloaded = summarise(torch.full((4, 2), 2.5), 32)
    assert overloaded.overload
    assert any(line.startswith("Overload: ") and "regulariser" in line for line in _advice(overloaded))


def test_reproduce_says_what_the_corpus_gave_and_how_much_there_is_to_do(
    tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first run, which takes minutes. The run itself is left out here."""
    micro = PAPER_SCALES["micro"]
    data = replace(micro.base.data, corpus=str(text_folder), cache=tmp_path / "cache")
    monkeypatch.setitem(PAPER_SCALES, "micro", replace(micro, base=replace(micro.base, data=data)))

    def launch(jobs: list[Job], launcher: str, parallel: int, address: str | None) -> Iterator[tuple[Job, RunRecord]]:
        raise ValueError("Enough.")
        yield

    monkeypatch.setattr("hushlm.experiments.launch.launch", launch)
    assert main(["reproduce", "table2", "--runs", str(tmp_path), "--parallel", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if "documents" in line).startswith(f"{text_folder.name}: 40 documents, ")
    assert lines[-2].endswith("2 at once; a run takes one to two minutes of a core.")
    assert "runs to be made now, " in lines[-2]
    assert lines[-1] == "hushlm: Enough."


def test_train_opens_its_corpus_once(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opening reads and hashes all of its text."""
    opened = []

    def counted(config: DataConfig) -> Corpus:
        opened.append(config)
        return open_corpus(config)

    monkeypatch.setattr("hushlm.data.store.open_corpus", counted)
    assert main(["train", "--config", str(settings), "--progress", "none"]) == 0
    assert len(opened) == 1
