"""NeoX(SM+LN+G) is Hugging Face's GPT-NeoX: same logits, same gradients, and a round trip through its files."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.huggingface import from_hf_gpt_neox, to_hf_gpt_neox
from hushlm.model import LanguageModel
from tests.huggingface.models import prefixed

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SHAPE = ModelShape(layers=3, heads=2, width=32, context=24, vocabulary=37, tied_head=False)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


def hf_neox(**settings: Any) -> Any:
    """Pythia's settings, small: a quarter of every head turns, the head is a matrix of its own."""
    torch.manual_seed(0)
    config = {
        "vocab_size": 37,
        "max_position_embeddings": 24,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**(config | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tokens() -> Tensor:
    return torch.randint(0, 37, (2, 24), generator=torch.Generator().manual_seed(1))


def loss(logits_BTV: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())


ROPE = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "NeoX(SM+LN+G)"),
        ({"hidden_act": "relu"}, "NeoX(SM+LN+R)"),
        ({"hidden_act": "relu2"}, "NeoX(SM+LN+R2)"),
        ({"hidden_act": "linear"}, "NeoX(SM+LN)"),
        ({"tie_word_embeddings": True, "rope_parameters": ROPE}, "NeoX(SM+LN+G)"),
    ],
)
def test_logits_and_gradients_equal_gpt_neox(settings: dict[str, Any], name: str, tmp_path: Path) -> None:
    hf_neox(**settings).save_pretrained(tmp_path)
    hf_model = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path).eval()
    model = from_hf_gpt_neox(hf_model)
    assert model.architecture == parse(name)
    assert model.shape == dataclasses.replace(
        SHAPE,
        tied_head=settings.get("tie_word_embeddings", False),
        rotary_share=0.5 if "rope_parameters" in settings else 0.25,
        rotary_base=500.0 if "rope_parameters" in settings else 10_000.0,
    )
    theirs, ours = hf_model(tokens()).logits, model(tokens()).logits_BTV
    assert float(theirs.detach().std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    loss(theirs).backward()
    loss(ours).backward()
    # The gradients, under the names of either side: what takes weights over takes gradients over.
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.copy_(parameter.grad)
    expected = dict(from_hf_gpt_neox(hf_model).named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-5, msg=partial(prefixed, key))


def test_entropies_equal_those_of_gpt_neoxs_attention_weights() -> None:
    hf_model = hf_neox(attn_implementation="eager")
    p_LBHTS = torch.stack(hf_model(tokens(), output_attentions=True).attentions).double()
    expected = -torch.where(p_LBHTS > 0, p_LBHTS * p_LBHTS.clamp_min(1e-300).log(), 0).sum(-1)
    entropy_nats_LBHT = from_hf_gpt_neox(hf_model)(tokens(), with_entropy=True).entropy_nats_LBHT
    torch.testing.assert_close(entropy_nats_LBHT.double(), expected, rtol=1e-5, atol=1e-5)


def test_greedy_answers_are_those_of_gpt_neox() -> None:
    hf_model = hf_neox()
    sequence = torch.tensor([[3, 1, 4]])
    theirs = hf_model.generate(
        sequence, attention_mask=torch.ones_like(sequence), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert from_hf_gpt_neox(hf_model).greedy([3, 1, 4], 12) == theirs[0, 3:].tolist()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["NeoX(SM+LN+G)", "NeoX(SM+LN+R)", "NeoX(SM+LN+R2)", "NeoX(SM+LN)"])
def test_round_trip_through_the_files_of_transformers(name: str, tied: bool, tmp_path: Path) -> None:
    model = LanguageModel(parse(name), dataclasses.replace(SHAPE, tied_head=tied), seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    to_hf_gpt_neox(model).save_pretrained(tmp_path)
    back = from_hf_gpt_neox(transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path))
    assert back.architecture == model.architecture
    assert back.shape == model.shape
    ours, theirs = model.state_dict(), back.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_weights_are_copies() -> None:
    hf_model = hf_neox()
    model = from_hf_gpt_neox(hf_model)
    before = model(tokens()).logits_BTV
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.zero_()
    assert torch.equal(model(tokens()).logits_BTV, before)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_act": "gelu_new"}, "activation 'gelu_new'"),
        ({"use_parallel_residual": False}, "sequential residual"),
        ({"attention_bias": False}, "without biases"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"intermediate_size": 50}, "FFN width of 50"),
        ({"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}, "type 'linear'"),
    ],
)
def test_a_gpt_neox_without_an_equal_here_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_hf_gpt_neox(hf_neox(**settings))


@pytest.mark.parametrize("name", ["SM+LN+G", "NeoX(SM+G)", "NeoX(SM+ScFuFFN)", "NeoX(SM2+LN+G)", "NeoX(SM(t)+LN+G)", "NeoX(SM+LN+B)"])
def test_what_is_no_gpt_neox_is_not_written_as_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no GPT-NeoX"):
        to_hf_gpt_neox(LanguageModel(parse(name), SHAPE))


def test_missing_transformers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"install hushlm\[hf\]"):
        to_hf_gpt_neox(LanguageModel(parse("NeoX(SM+LN+G)"), SHAPE))
