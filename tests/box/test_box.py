"""The model that comes with the package: what is shipped, how it is named, and that it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hushlm.box import MODEL, checkpoint_folder
from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.files import verify_manifest
from hushlm.training import load_checkpoint, train

ROOT = Path(__file__).parents[2]
PROMPT = "def fibonacci(n):"
MOST_BYTES = 20_000_000


def test_what_is_shipped_is_a_small_whole_checkpoint_in_float16() -> None:
    listed = verify_manifest(MODEL)["files"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(listed)
    assert not [name for name in listed if name.startswith("state/")], "the optimiser's state is of no use to a reader"
    assert sum(entry["bytes"] for entry in listed.values()) < MOST_BYTES
    assert {tensor.dtype for tensor in load_file(MODEL / "model.safetensors").values()} == {torch.float16}


def test_it_was_trained_with_the_settings_that_train_it_again() -> None:
    config = load_checkpoint(MODEL).config
    wanted = yaml.safe_load((ROOT / "benchmarks" / "box.yaml").read_text())
    del wanted["output"], wanted["checkpoint_every"]
    again = RunConfig.from_dict({**wanted, "output": "box"})
    vocabulary = config.shape.vocabulary
    assert again.data.tokenizer == f"bpe:{vocabulary}"
    assert replace(config, output=again.output) == replace(again, shape=replace(again.shape, vocabulary=vocabulary))


def test_the_documentation_shows_the_card_that_is_shipped() -> None:
    shipped = (MODEL / "README.md").read_text()
    page = (ROOT / "docs" / "model-in-the-box.md").read_text()
    shown = page.split("<!-- card: begin -->\n")[1].split("<!-- card: end -->")[0]
    assert shown
    assert shipped.endswith(f"\n{shown}")
    measured = json.loads((ROOT / "results" / "box.json").read_text())
    assert f"| {measured['test_perplexity']:.2f}, on" in shipped
    assert f"{measured['completions']['share_that_parses']:.0%} of {measured['completions']['completed']}," in shipped


def test_asking_without_a_model_asks_it_in_plain_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", PROMPT, "--json"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    box = load_checkpoint(MODEL)
    prompt = box.tokenizer.encode(PROMPT).ids
    assert answer["mode"] == "plain"
    assert answer["tokens"] == box.model.greedy(prompt, 8)
    assert shown.err.count("\n") == 1
    assert "the model that comes with the package answers here, in plain, and nothing is sent" in shown.err


@pytest.mark.parametrize("options", [["--mode", "two-party"], ["--mode", "simulate"], ["--server", "example.org:1"], ["--keys", "keys"]])
def test_asking_somebody_else_still_needs_a_model(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", PROMPT, *options]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert "ask needs --model" in shown.err


def test_the_word_names_it_unless_a_folder_does(
    tiny: Callable[..., RunConfig], tiny_store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder(Path("box")) == MODEL
    assert checkpoint_folder(Path("runs/box")) == Path("runs/box")
    shipped = load_checkpoint("box")
    train(replace(tiny(), output=Path("box")), tiny_store)
    assert checkpoint_folder(Path("box")) == Path("box")
    assert load_checkpoint("box").model.shape != shipped.model.shape


def test_it_is_priced_by_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cost", "box", "--json"]) == 0
    assert load_checkpoint("box").config.architecture in capsys.readouterr().out


@pytest.mark.slow
def test_the_private_program_gives_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("spu", reason="the two-party engine is not installed")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "box", "export"]) == 0
    capsys.readouterr()
    assert main(["ask", PROMPT, "--mode", "simulate", "--model", "export", "--new-tokens", "2", "--json"]) == 0
    simulated = json.loads(capsys.readouterr().out)
    assert main(["ask", PROMPT, "--mode", "plain", "--model", "box", "--new-tokens", "2", "--json"]) == 0
    assert simulated["tokens"] == json.loads(capsys.readouterr().out)["tokens"]
