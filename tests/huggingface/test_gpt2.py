"""SM+LN+G is Hugging Face's GPT-2: same logits, same gradients, and a round trip through its files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.huggingface.gpt2 import from_hf_gpt2, to_hf_gpt2
from hushlm.model.language_model import LanguageModel

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SHAPE = ModelShape(layers=3, heads=4, width=24, context=16, vocabulary=37)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


def hf_gpt2(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = {"vocab_size": 37, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(config | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def tokens() -> Tensor:
    return torch.randint(0, 37, (2, 16), generator=torch.Generator().manual_seed(1))


def loss(logits_BTV: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())


@pytest.mark.parametrize(("activation", "name"), [("gelu_new", "SM+LN+G"), ("relu", "SM+LN+R"), ("relu2", "SM+LN+R2"), ("linear", "SM+LN")])
def test_logits_and_gradients_equal_gpt2(activation: str, name: str) -> None:
    hf_model = hf_gpt2(activation_function=activation)
    model = from_hf_gpt2(hf_model)
    assert model.architecture == parse(name)
    assert model.shape == SHAPE
    theirs, ours = hf_model(tokens()).logits, model(tokens()).logits_BTV
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    loss(theirs).backward()
    loss(ours).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    of = hf_model.transformer
    torch.testing.assert_close(gradients["embedding.weight"], of.wte.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients["positions.weight"], of.wpe.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients["final_norm.weight"], of.ln_f.weight.grad, rtol=1e-5, atol=1e-5)
    for i, block in enumerate(of.h):
        ours_qkv = torch.cat([gradients[f"blocks.{i}.attention.{x}.weight"] for x in ("query", "key", "value")])
        torch.testing.assert_close(ours_qkv, block.attn.c_attn.weight.grad.T, rtol=1e-5, atol=1e-5)
        for mine, other in (
            ("attention.output", block.attn.c_proj),
            ("feed_forward.expand", block.mlp.c_fc),
            ("feed_forward.contract", block.mlp.c_proj),
        ):
            torch.testing.assert_close(gradients[f"blocks.{i}.{mine}.weight"], other.weight.grad.T, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(gradients[f"blocks.{i}.{mine}.bias"], other.bias.grad, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[f"blocks.{i}.norm_attention.weight"], block.ln_1.weight.grad, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[f"blocks.{i}.norm_feed_forward.bias"], block.ln_2.bias.grad, rtol=1e-5, atol=1e-5)


def test_entropies_equal_those_of_gpt2s_attention_weights() -> None:
    hf_model = hf_gpt2(attn_implementation="eager")
    p_LBHTS = torch.stack(hf_model(tokens(), output_attentions=True).attentions).double()
    expected = -torch.where(p_LBHTS > 0, p_LBHTS * p_LBHTS.clamp_min(1e-300).log(), 0).sum(-1)
    entropy_nats_LBHT = from_hf_gpt2(hf_model)(tokens(), with_entropy=True).entropy_nats_LBHT
    torch.testing.assert_close(entropy_nats_LBHT.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["SM+LN+G", "SM+LN+R", "SM+LN+R2", "SM+LN"])
def test_round_trip_through_the_files_of_transformers(name: str, tmp_path: Path) -> None:
    model = LanguageModel(parse(name), SHAPE, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    to_hf_gpt2(model).save_pretrained(tmp_path)
    back = from_hf_gpt2(transformers.GPT2LMHeadModel.from_pretrained(tmp_path))
    assert back.architecture == model.architecture
    assert back.shape == model.shape
    ours, theirs = model.state_dict(), back.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_weights_are_copies() -> None:
    hf_model = hf_gpt2()
    model = from_hf_gpt2(hf_model)
    before = model(tokens()).logits_BTV
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.zero_()
    assert torch.equal(model(tokens()).logits_BTV, before)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"activation_function": "gelu"}, "activation 'gelu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scaled by layer"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"n_inner": 50}, "FFN width of 50"),
    ],
)
def test_a_gpt2_without_an_equal_here_is_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_hf_gpt2(hf_gpt2(**settings))


def test_an_untied_head_goes_there_and_back() -> None:
    hf_model = hf_gpt2(tie_word_embeddings=False)
    model = from_hf_gpt2(hf_model)
    torch.testing.assert_close(model(tokens()).logits_BTV, hf_model(tokens()).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_hf_gpt2(model)(tokens()).logits, hf_model(tokens()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["NeoX(SM+LN+G)", "SM+G", "SM+ScFuFFN", "SM2+LN+G", "SM(t)+LN+G", "SM+WNorm(QK)", "SM+LN+P", "SM+LN+Q", "SM+LN+B"]
)
def test_what_is_no_gpt2_is_not_written_as_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no GPT-2"):
        to_hf_gpt2(LanguageModel(parse(name), SHAPE))


def test_missing_transformers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"install hushlm\[hf\]"):
        to_hf_gpt2(LanguageModel(parse("SM+LN+G"), SHAPE))
