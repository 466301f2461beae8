"""`hushlm import`: a model of Hugging Face becomes a checkpoint, measured on text kept apart, with its range checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from hushlm.adaptation.rewriting import mean_losses_nats
from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.cost import price
from hushlm.data.tokenizer import Tokenizer
from hushlm.data.tokenizer_choice import make_tokenizer
from hushlm.huggingface.importing.import_model import import_model
from hushlm.huggingface.importing.number_range import largest_number, product_limit
from hushlm.huggingface.importing.recipes import fit_recipe
from hushlm.huggingface.importing.sample_text import sample_windows
from hushlm.huggingface.llama import from_hf_llama
from hushlm.huggingface.saved_checkpoint import save_hf_checkpoint
from hushlm.plan import prefill_plan
from hushlm.private.program.export_model import export_model
from hushlm.training.checkpoint import load_checkpoint
from tests.huggingface.models import CONTEXT, VOCABULARY, save_with_tokenizer, tiny, words

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SETTINGS: dict[str, dict[str, Any]] = {"gpt2": {}, "gpt_neox": {"intermediate_size": 64}, "llama": {}}
START = VOCABULARY - 1
"""A token that the texts below do not have."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(word for word in words(3000).split() if word != f"w{START}"))
    return path


def vendor(family: str, folder: Path, **settings: Any) -> Any:
    model = tiny(family, **(SETTINGS[family] | settings))
    save_with_tokenizer(model, folder)
    return model


@pytest.mark.parametrize("family", SETTINGS)
def test_exact_is_the_model_itself(family: str, tmp_path: Path, text: Path) -> None:
    model = vendor(family, tmp_path / "vendor")
    report = import_model(str(tmp_path / "vendor"), tmp_path / "ours", text=text)
    checkpoint = load_checkpoint(tmp_path / "ours")
    batch = torch.arange(CONTEXT)[None]
    torch.testing.assert_close(checkpoint.model(batch).logits_BTV, model(batch).logits, rtol=1e-4, atol=1e-4)
    assert report.perplexity_ratio == pytest.approx(1, abs=1e-9)
    assert report.notes == ()
    assert report.architecture == report.original == str(checkpoint.model.architecture)
    # Measured once more, by transformers, on the last third of the text.
    (measured,) = report.measured
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "vendor")
    content = text.read_text()
    ids = tokenizer.encode(content[2 * len(content) // 3 :], add_special_tokens=False)
    windows = torch.tensor([ids[i * (CONTEXT - 1) : (i + 1) * (CONTEXT - 1)] for i in range(8)])
    loss = functional.cross_entropy(model(windows).logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    assert measured.before == pytest.approx(math.exp(loss.item()), rel=1e-4)
    assert measured.tokens == 8 * (CONTEXT - 2)
    assert export_model(checkpoint, tmp_path / "program").rounding_error < 0.05


@pytest.mark.parametrize(("recipe", "order"), [("sm3", 3), ("sm2", 2)])
@pytest.mark.parametrize("family", SETTINGS)
def test_recipes_rewrite_and_fit(family: str, recipe: Any, order: int, tmp_path: Path, text: Path) -> None:
    vendor(family, tmp_path / "vendor")
    report = import_model(str(tmp_path / "vendor"), tmp_path / "ours", recipe=recipe, text=text)
    checkpoint = load_checkpoint(tmp_path / "ours")
    names = {"gpt2": f"SM{order}(th)+LN+G", "gpt_neox": f"NeoX(SM{order}(th)+LN+G)", "llama": f"Llama(SM{order}(th)+RMS+SwiQ)"}
    assert report.architecture == str(checkpoint.model.architecture) == names[family]
    assert (report.gate_error is not None) == (family == "llama")
    temperature = checkpoint.model.get_parameter("blocks.1.attention.temperature")
    assert torch.equal(temperature, torch.full_like(temperature, float(report.temperature or 0)))
    (sample,) = sample_windows(checkpoint.tokenizer, CONTEXT - 1, text)
    (measured,) = report.measured
    assert math.exp(mean_losses_nats(checkpoint.model, [sample.kept_NT])[0]) == pytest.approx(measured.after, rel=1e-5)
    # Other temperatures are no better on the text that it was fitted on.
    losses = {}
    for factor in (1.0, 1.2, 1.4, 1.6, 1.8, 2.0):
        with torch.no_grad():
            for block in checkpoint.model.blocks:
                block.get_parameter("attention.temperature").fill_(factor)
        (losses[factor],) = mean_losses_nats(checkpoint.model, [sample.fit_NT])
    neighbours = [losses[factor] for factor in losses if abs(factor - float(report.temperature or 0)) < 0.25]
    assert losses[float(report.temperature or 0)] == min(neighbours)
    assert export_model(checkpoint, tmp_path / "program").rounding_error < 0.05


def test_fitted_gates_are_better_than_the_default(text: Path) -> None:
    model = from_hf_llama(tiny("llama", spread=0.6))
    parts = [torch.randint(0, VOCABULARY, (6, 31), generator=torch.Generator().manual_seed(0))]
    fitted = fit_recipe(model, "sm3", parts)
    curves = [block.get_parameter("feed_forward.curve") for block in fitted.model.blocks]
    assert len({tuple(curve.tolist()) for curve in curves}) == len(curves), "every layer has its own"
    gates: list[torch.Tensor] = []
    handle = model.get_submodule("blocks.0.feed_forward.gate").register_forward_hook(lambda _, inputs, g: gates.append(g.detach()))
    model(parts[0])
    handle.remove()
    first: Any = fitted.model.get_submodule("blocks.0.feed_forward")
    error = (first.activated(gates[0]) - functional.silu(gates[0])).square().mean().sqrt().item()
    assert error <= (fitted.gate_error or 0) * 1.1


def with_outlier() -> Any:
    """Where nothing else is before a text, attention writes a number whose square fixed point does not hold.

    Coordinate 1 is in every token, 2 in all but the first token START, and 0 in START alone. Queries look for coordinate 0 along the pair
    of entries that turns least; values carry coordinate 2.
    """
    model = tiny("llama", spread=0.0, num_hidden_layers=1, bos_token_id=START)
    state = model.state_dict()
    attention = "model.layers.0.self_attn"
    with torch.no_grad():
        embedding = state["model.embed_tokens.weight"]
        embedding[:, :3] = torch.tensor([0.0, 1.0, 1.0])
        embedding[START, :3] = torch.tensor([1.0, 1.0, 0.0])
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{attention}.{part}.weight"].zero_()
        for head in range(4):
            state[f"{attention}.q_proj.weight"][8 * head + 3, 1] = 10.0
        for head in range(2):
            state[f"{attention}.k_proj.weight"][8 * head + 3, 0] = 10.0
            state[f"{attention}.v_proj.weight"][8 * head, 2] = 5e3
        state[f"{attention}.o_proj.weight"][5, 0] = 4.0
    return model


def test_an_outlier_is_found_and_cured_by_the_first_token(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_outlier()
    save_with_tokenizer(model, tmp_path / "vendor")
    found = largest_number(from_hf_llama(model), torch.arange(20)[None])
    assert found.value > product_limit()
    assert found.what == "sum of squares"
    assert main(["import", str(tmp_path / "vendor"), str(tmp_path / "ours"), "--text", str(text), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shape"]["prefix"] == 1
    assert report["shape"]["context"] == CONTEXT - 1
    assert report["largest"] < report["limit"] < found.value
    assert f"first token w{START} as a prefix" in report["notes"][0]
    checkpoint = load_checkpoint(tmp_path / "ours")
    batch = torch.arange(20)[None]
    expected = model(torch.cat([torch.tensor([[START]]), batch], dim=1)).logits[:, 1:]
    torch.testing.assert_close(checkpoint.model(batch).logits_BTV, expected, rtol=1e-4, atol=1e-4)
    export_model(checkpoint, tmp_path / "program")  # which looks at the range of a prompt of its own
    save_hf_checkpoint(model, transformers.AutoTokenizer.from_pretrained(tmp_path / "vendor"), tmp_path / "as it is")
    with pytest.raises(ValueError, match="too large for 18 fraction bits"):
        export_model(load_checkpoint(tmp_path / "as it is"), tmp_path / "other")


def test_an_outlier_without_a_first_token_is_refused(tmp_path: Path, text: Path) -> None:
    model = with_outlier()
    model.config.bos_token_id = None
    save_with_tokenizer(model, tmp_path / "vendor")
    with pytest.raises(ValueError, match=r"sum of squares of .* reaches .* cannot be served privately as it is"):
        import_model(str(tmp_path / "vendor"), tmp_path / "ours", text=text)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_a_tokenizer_adds_is_told_and_kept_where_it_can_be(family: str, tmp_path: Path, text: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    model = vendor(family, tmp_path / "vendor")
    path = tmp_path / "vendor/tokenizer.json"
    library = Tokenizer.from_file(path).library
    library.post_processor = TemplateProcessing(single=f"w{START} $A w3", special_tokens=[(f"w{START}", START), ("w3", 3)])
    library.save(str(path))
    report = import_model(str(tmp_path / "vendor"), tmp_path / "ours", text=text)
    begins, ends = report.notes
    assert f"begins every text with w{START}" in begins
    assert "ends every text with w3" in ends
    ours, batch = load_checkpoint(tmp_path / "ours").model, torch.arange(20)[None]
    whole = torch.cat([torch.tensor([[START]]), batch], dim=1)
    expected = model(whole).logits[:, 1:] if family == "llama" else model(batch).logits
    torch.testing.assert_close(ours(batch).logits_BTV, expected, rtol=1e-4, atol=1e-4)


def test_the_chat_template_comes_along(tmp_path: Path, text: Path) -> None:
    vendor("llama", tmp_path / "vendor")
    (tmp_path / "vendor/chat_template.jinja").write_text("{% for m in messages %}w1 {{ m.content }} {% endfor %}")
    import_model(str(tmp_path / "vendor"), tmp_path / "ours", text=text)
    assert "w1 {{ m.content }}" in (tmp_path / "ours/chat_template.jinja").read_text()


def test_the_command_prints_what_it_measured(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vendor("llama", tmp_path / "vendor")
    call = ["import", str(tmp_path / "vendor"), str(tmp_path / "ours"), "--recipe", "sm2", "--text", str(text), "--context", "20"]
    assert main([*call, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    shape = load_checkpoint(tmp_path / "ours").model.shape
    assert shape.context == 20
    for which, name in (("before", "Llama(SM+RMS+Swi)"), ("after", "Llama(SM2(th)+RMS+SwiQ)")):
        assert report[f"price_{which}"]["architecture"] == name
        assert report[f"price_{which}"]["bytes"] == price(prefill_plan(parse(name), shape, 20)).total.bytes
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "Llama(SM2(th)+RMS+SwiQ)" in printed
    assert "text.txt" in printed
    assert f"hushlm export {tmp_path / 'ours'} FOLDER" in printed.replace("\n", " ")


def test_texts_that_every_python_has_are_three_domains_and_their_parts_differ() -> None:
    samples = sample_windows(make_tokenizer("bytes", []), 64)
    assert [sample.name for sample in samples] == ["Python's reference", "Python code", "package descriptions"]
    for sample in samples:
        assert sample.fit_NT.shape == sample.kept_NT.shape == (8, 64)
        fit, kept = ({tuple(row) for row in part.tolist()} for part in (sample.fit_NT, sample.kept_NT))
        assert not fit & kept


def spoil(folder: Path, what: str) -> None:
    if what == "truncated":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:500])
    elif what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "no tokenizer":
        for path in folder.glob("token*"):
            path.unlink()
    elif what == "other sizes":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    elif what == "leftovers":
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        save_file(load_file(path) | {"model.extra.weight": torch.ones(2)}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("truncated", [], "truncated or damaged"),
        ("no weights", [], "could not be opened as a causal language model"),
        ("no tokenizer", [], "tokenizer"),
        ("other sizes", [], "belong to two models"),
        ("leftovers", [], "model.extra.weight"),
        ("", ["--context", "33"], "up to 32 tokens: give a --context from 3 to 32"),
        ("", ["--context", "2"], "give a --context from 3"),
        ("", ["--recipe", "sm9"], "recipe"),
        ("", ["--text", "short.txt"], "too short"),
        ("", ["--text", "bytes.txt"], "no text file in UTF-8"),
        ("", ["--text", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    what: str, options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    vendor("llama", tmp_path / "vendor")
    spoil(tmp_path / "vendor", what)
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    (tmp_path / "bytes.txt").write_bytes(b"\xff" * 4000)
    (tmp_path / "text.txt").write_text(words(2000))
    text = [] if "--text" in options else ["--text", "text.txt"]
    assert main(["import", "vendor", "ours", *text, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("hushlm: ")
    assert "Traceback" not in error
    assert not (tmp_path / "ours").exists()


def test_what_is_not_ours_is_not_replaced(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vendor("llama", tmp_path / "vendor")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.doc").write_text("years")
    assert main(["import", str(tmp_path / "vendor"), str(tmp_path / "mine"), "--text", str(text)]) == 2
    assert "holds files that hushlm did not write" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "absent"), str(tmp_path / "ours"), "--text", str(text)]) == 2
    assert "no folder" in capsys.readouterr().err
