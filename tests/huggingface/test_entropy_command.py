"""`hushlm entropy MODEL --text FILE`: the report of a Hugging Face model, and of a checkpoint of ours on any text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.data import TokenStore, fixed_batches
from hushlm.entropy import summarise
from hushlm.training import train
from tests.huggingface.models import CONTEXT, FAMILIES, VOCABULARY, eager, save_gguf, save_with_tokenizer, tiny, words

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(words(500))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["entropy", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["entropy", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hushlm: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_is_of_the_models_attention_matrices(
    family: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(family)
    save_with_tokenizer(model, tmp_path / "model")
    figures = tmp_path / "figures"
    document = answer(capsys, str(tmp_path / "model"), "--text", str(text), "--batches", "5", "--output", str(figures))
    ids = [int(word[1:]) for word in text.read_text().split()]
    windows = torch.cat(list(fixed_batches(np.array(ids), 1, CONTEXT, 5)))[:, :-1]
    _, entropy_LHN = eager(model, {"input_ids": windows, "attention_mask": torch.ones_like(windows)})
    expected = summarise(entropy_LHN.mean(-1).detach(), CONTEXT)
    assert document["architecture"] == family
    assert document["context"] == CONTEXT
    assert document["tokens"] == 5 * CONTEXT
    np.testing.assert_allclose(document["head_entropy_nats_LH"], expected.head_entropy_nats_LH, atol=1e-5)
    for key, value in expected.to_dict().items():
        if isinstance(value, bool) or key.startswith("share"):
            assert document[key] == (value if isinstance(value, bool) else list(value)), key
    assert sorted(path.name for path in figures.iterdir()) == ["head-entropy.png", "head-share.png"]
    assert main(["entropy", str(tmp_path / "model"), "--text", str(text), "--context", "8"]) == 0
    table = capsys.readouterr().out
    assert "windows of 8" in table
    assert "overload: " in table


def test_a_gguf_file_is_read_with_its_own_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="the hf extra is not installed")
    model = tiny("llama")
    save_gguf(model, tmp_path / "tiny.gguf")
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 50)
    document = answer(capsys, str(tmp_path / "tiny.gguf"), "--text", str(text), "--batches", "3")
    ids = np.array([40, 2, 3, 4, 5, 6, 7] * 50)
    windows = torch.cat(list(fixed_batches(ids, 1, CONTEXT, 3)))[:, :-1]
    _, entropy_LHN = eager(model, {"input_ids": windows, "attention_mask": torch.ones_like(windows)})
    np.testing.assert_allclose(document["head_entropy_nats_LH"], entropy_LHN.mean(-1).detach(), atol=1e-4)


def test_uniform_heads_of_a_model_are_called_overloaded(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.zero_()
            block.attn.c_attn.bias.zero_()
    save_with_tokenizer(model, tmp_path / "model")
    document = answer(capsys, str(tmp_path / "model"), "--text", str(text), "--batches", "2")
    assert document["overload"] is True
    assert document["overloaded_layers"] == [0, 1]
    assert np.allclose(document["head_share_of_attainable_LH"], 1.0, atol=1e-5)


def test_a_checkpoint_of_ours_reads_any_text_without_transformers(
    tiny: Callable[..., RunConfig],
    tiny_store: TokenStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = train(tiny(training={"steps": 2}), tiny_store)
    path = tmp_path / "text.txt"
    path.write_text("alpha beta gamma delta " * 30)
    document = answer(capsys, str(result.folder), "--text", str(path), "--context", "16")
    windows = torch.cat(list(fixed_batches(np.array(tiny_store.tokenizer.encode(path.read_text()).ids), 4, 16, 32)))[:, :-1]
    with torch.no_grad():
        entropy_LBHT = result.model(windows, with_entropy=True).entropy_nats_LBHT
    np.testing.assert_allclose(document["head_entropy_nats_LH"], entropy_LBHT.mean(dim=(1, 3)), atol=1e-5)
    assert "at most 32" in refused(capsys, str(result.folder), "--context", "33")


def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "model"
    save_with_tokenizer(tiny("gpt2"), folder)
    assert "add --text FILE" in refused(capsys, str(folder))
    assert "at most 32 tokens" in refused(capsys, str(folder), "--text", str(text), "--context", "33")
    assert "at least 2 tokens" in refused(capsys, str(folder), "--text", str(text), "--context", "1")
    assert "not both" in refused(capsys, str(folder), "--text", str(text), "--corpus", "stdlib")
    assert "No such file" in refused(capsys, str(folder), "--text", str(tmp_path / "absent.txt"))
    short = tmp_path / "short.txt"
    short.write_text("w1 w2 w3")
    assert "has 3 tokens, and one window takes 33" in refused(capsys, str(folder), "--text", str(short))
    short.write_bytes(b"\xff\xfe\xff")
    assert "no text file in UTF-8" in refused(capsys, str(folder), "--text", str(short))
    assert "is no folder of a model" in refused(capsys, str(tmp_path / "absent"), "--text", str(text))
    assert "no file" in refused(capsys, str(tmp_path / "absent.gguf"), "--text", str(text))
    assert "could not be opened as a causal language model" in refused(capsys, "nobody/no-such-model", "--text", str(text))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "could not be opened as a causal language model" in refused(capsys, str(folder), "--text", str(text))
    (folder / "config.json").write_text(config.replace('"n_layer": 3', '"n_layer": 4'))
    assert "lacks 12 of the weights that a GPT2LMHeadModel has" in refused(capsys, str(folder), "--text", str(text))
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "hushlm[hf]" in refused(capsys, str(folder), "--text", str(text))


def damaged(folder: Path, what: str) -> str:
    """Damage a folder in one way, and return what the sentence must say."""
    weights = folder / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        return "weights are truncated or damaged"
    if what == "empty weights":
        weights.write_bytes(b"")
        return "weights are truncated or damaged"
    if what == "other shapes":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"n_embd": 48}))
        return "but its config.json asks for (144,)"
    if what == "weights left over":
        tensors = load_file(weights)
        save_file(tensors | {"lm_head.bias": torch.zeros(VOCABULARY)}, weights, {"format": "pt"})
        return "holds 1 weights that a GPT2LMHeadModel does not have, for example lm_head.bias"
    if what == "no tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
        return "has no tokenizer: put tokenizer.json"
    if what == "broken tokenizer":
        (folder / "tokenizer.json").write_text("{}")
        return f"The tokenizer of {folder} could not be opened"
    if what == "config is a list":
        (folder / "config.json").write_text('["model_type"]')
        return "could not be opened as a causal language model"
    if what == "code of its own":
        config = json.loads((folder / "config.json").read_text())
        own = {"model_type": "mine", "auto_map": {"AutoConfig": "my.C", "AutoModelForCausalLM": "my.M"}}
        (folder / "config.json").write_text(json.dumps(config | own))
        (folder / "my.py").write_text("raise SystemExit('ran')")
        return "custom code"
    assert what == "adapter alone"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "config.json").unlink()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(folder.parent / "gone"), "r": 2, "target_modules": ["c_attn"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return "holds an adapter of the model"


@pytest.mark.parametrize(
    "what",
    [
        "truncated",
        "empty weights",
        "other shapes",
        "weights left over",
        "no tokenizer",
        "broken tokenizer",
        "config is a list",
        "code of its own",
        "adapter alone",
    ],
)
def test_a_damaged_folder_is_refused_by_its_cause(what: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    save_with_tokenizer(tiny("gpt2"), folder)
    expected = damaged(folder, what)
    assert expected in refused(capsys, str(folder), "--text", str(text))


def test_a_tokenizer_that_is_not_the_models_own_is_refused(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_with_tokenizer(tiny("gpt2"), tmp_path / "model")
    save_with_tokenizer(tiny("gpt2", vocab_size=30), tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_bytes((tmp_path / "model" / "tokenizer.json").read_bytes())
    assert "outside the model's vocabulary of 30" in refused(capsys, str(tmp_path / "small"), "--text", str(text))


@pytest.mark.parametrize("name", ["m", "runs/m", "a/b/c", "./m", "~/m", "/m", "owner/", "o wner/model"])
def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(
    name: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    if " " in name:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert "no such folder here" in refused(capsys, name, "--text", str(text))
    else:
        assert f"There is no folder {Path(name)}" in refused(capsys, name, "--text", str(text))


def test_without_a_network_the_hub_is_asked_once(text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[str] = []

    def unreachable(self: Any, name: str, **_: Any) -> None:
        calls.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    sentence = refused(capsys, "nobody/no-such-model", "--text", str(text))
    assert "no such folder here, and the Hugging Face hub cannot be reached (Name or service not known)" in sentence
    assert calls == ["nobody/no-such-model"]
