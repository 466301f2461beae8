"""Bad input: one sentence on standard error, exit code 2, no traceback. Interruptions are clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hushlm.cli import main as cli
from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.training import load_checkpoint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run("train", "--steps", "3") -> exit code, standard output, standard error."""

    def go(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def refused(run: Run, *words: str) -> str:
    """The sentence with which a command is refused."""
    code, out, err = run(*words)
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("hushlm: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "  " not in err
    return err.removeprefix("hushlm: ").strip()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["no command 'trian'", "train"]),
        (["train", "--architecture", "SM+LN+X"], ["Unknown architecture 'SM+LN+X'", "SM+LN+G", "hushlm architectures"]),
        (["train", "--shape.heads", "5"], ["5 heads do not divide a width of 64"]),
        (["train", "--shape.heads", "3", "--shape.width", "64"], ["3 heads do not divide"]),
        (["train", "--shape.layers", "0"], ["layers", "0", "greater than or equal to 1"]),
        (["train", "--shape.layers", "six"], ["--shape.layers", "expected int", "six"]),
        (["train", "--training.betas", "[0.9]"], ["--training.betas"]),
        (["train", "--shape.layrs", "6"], ["no option --shape.layrs", "--shape.layers"]),
        (["train", "--training.step", "3"], ["no option --training.step", "--training.steps"]),
        (["train", "--layers=6"], ["no option --layers=6"]),
        (["train", "SM"], ["'SM'", "--help"]),
        (["train", "--training.steps"], ["--training.steps needs one value"]),
        (["train", "--progress", "maybe"], ["--progress", "auto", "maybe"]),
        (["train", "--config", "absent.yaml"], ["--config", "absent.yaml"]),
        (["train", "--data.corpus", "absent-folder"], ["no folder 'absent-folder'", "data.corpus"]),
        (["train", "--data.tokenizer", "bpe:many"], ["'bpe:many'", "bpe:1024"]),
        (["eval"], ["CHECKPOINT"]),
        (["eval", "absent"], ["no folder absent"]),
        (["eval", "absent", "--batches", "0"], ["at least one batch"]),
        (["entropy", "absent"], ["no folder absent"]),
        (["demo", "--private-architecture", "SM+LN"], ["SM+LN is not a row", "SM2+R"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and " " not in value[0] else "",
)
def test_a_mistake_gets_one_sentence(run: Run, words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused(run, *words)
    for part in parts:
        assert part in text
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_without_a_command_the_help_goes_to_standard_error(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "architectures" in err


def test_an_unreadable_configuration(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("shape: {layers: 2\n")
    assert "--config" in refused(run, "train", "--config", str(path))
    path.write_text("shape: {layrs: 2}\n")
    assert "layrs" in refused(run, "train", "--config", str(path))


def test_an_output_that_is_not_ours_is_left_alone(run: Run, tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny()
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("mine")
    settings = tmp_path / "run.yaml"
    settings.write_text(yaml.safe_dump(config.to_dict()))
    assert "hushlm did not write" in refused(run, "train", "--config", str(settings))
    assert [path.name for path in config.output.iterdir()] == ["thesis.txt"]


@pytest.fixture
def trained(run: Run, tiny: Callable[..., RunConfig], tmp_path: Path, text_folder: Path) -> tuple[Path, Path]:
    """A checkpoint with a BPE vocabulary, and the folder of its corpus, which may be changed."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in text_folder.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    config = tiny(data={"corpus": str(corpus), "tokenizer": "bpe:280"}, training={"steps": 2})
    settings = tmp_path / "run.yaml"
    settings.write_text(yaml.safe_dump(config.to_dict()))
    code, _, err = run("train", "--config", str(settings), "--progress", "none")
    assert code == 0, err
    return config.output, corpus


@pytest.mark.parametrize("command", ["eval", "entropy"])
def test_a_damaged_checkpoint(run: Run, trained: tuple[Path, Path], command: str) -> None:
    folder, _ = trained
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "damaged" in refused(run, command, str(folder))
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "damaged" in refused(run, command, str(folder))
    weights.unlink()
    assert "incomplete" in refused(run, command, str(folder))


def test_a_corpus_whose_vocabulary_has_changed(run: Run, trained: tuple[Path, Path]) -> None:
    folder, corpus = trained
    for path in corpus.iterdir():
        path.write_text(path.read_text().replace("alpha", "omega").replace("beta", "kappa"))
    text = refused(run, "eval", str(folder))
    assert "Vocabulary mismatch" in text
    assert f"--corpus {corpus}" in text
    code, out, _ = run("eval", str(folder), "--corpus", str(corpus), "--json")
    assert code == 0
    assert yaml.safe_load(out)["same_corpus"] is False


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def architectures(json: bool = False) -> None:
        raise ModuleNotFoundError("No module named 'spu'", name="spu")

    monkeypatch.setattr(cli, "load_command", lambda name: architectures)
    assert "pip install 'hushlm[private]'" in refused(run, "architectures")


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def architectures(json: bool = False) -> None:
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    monkeypatch.setattr(cli, "load_command", lambda name: architectures)
    with pytest.raises(ModuleNotFoundError):
        main(["architectures"])


def test_a_reader_that_leaves_early() -> None:
    command = f"{sys.executable} -m hushlm architectures --json"
    done = subprocess.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout in ("141\n", "0\n")  # 0 if everything fitted into the pipe before its reader left


def test_interrupting_a_training_run(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(training={"steps": 1_000_000})
    settings = tmp_path / "run.yaml"
    settings.write_text(yaml.safe_dump(config.to_dict()))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hushlm", "train", "--config", str(settings), "--progress", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert '"step"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("hushlm: Interrupted after step ")
    assert err.endswith(f"its checkpoint is {config.output}: go on with --resume auto.\n")
    assert err.count("\n") == 1
    assert time.monotonic() - begin < 30
    assert load_checkpoint(config.output).step == int(err.split()[4].rstrip(";"))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in pairwise("abcdefg"))


@pytest.mark.parametrize(
    "content", ["a: " + "[" * 50_000, "shape: " + "{a: " * 3000 + "1" + "}" * 3000, "- " * 50_000 + "x", BOMB + "shape: {layers: *g}\n"]
)
def test_settings_that_would_overflow_their_reader(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By nesting, which ended the process with a segmentation fault, or by references to references, which took minutes."""
    path = tmp_path / "run.yaml"
    path.write_text(content)
    for words in ([f"--config={path}"], ["--config", str(path)]):
        assert main(["train", *words]) == 2
        assert capsys.readouterr().err.startswith("hushlm: --config: this is nested too deeply, or too large")


def test_a_prompt_of_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    """Values of the command line are read as YAML as well."""
    assert main(["ask", "[" * 50_000]) == 2
    assert main(["train", "--data.suffixes", "[" * 50_000]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("hushlm: An argument: this is nested too deeply")
    assert second.startswith("hushlm: --data.suffixes: this is nested too deeply")
