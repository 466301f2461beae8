"""NeoX(SM+LN+G) is Hugging Face's GPT-NeoX: same logits, same gradients, and a round trip through its files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.huggingface import from_hf_gpt_neox, to_hf_gpt_neox
from hushlm.model import LanguageModel
from tests.huggingface.parity import (
    assert_goes_there_and_back,
    assert_same_entropies,
    assert_same_greedy_answers,
    assert_same_logits_and_gradients,
    assert_weights_are_copies,
    stirred,
    tokens,
)

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SHAPE = ModelShape(layers=3, heads=2, width=32, context=24, vocabulary=37, tied_head=False)


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
    return stirred(transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**(config | settings))), 0.1)


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
    assert_same_logits_and_gradients(hf_model, from_hf_gpt_neox, tokens())


def test_entropies_and_greedy_answers_are_those_of_gpt_neox() -> None:
    assert_same_entropies(hf_neox(attn_implementation="eager"), from_hf_gpt_neox, tokens())
    assert_same_greedy_answers(hf_neox(), from_hf_gpt_neox)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["NeoX(SM+LN+G)", "NeoX(SM+LN+R)", "NeoX(SM+LN+R2)", "NeoX(SM+LN)"])
def test_round_trip_through_the_files_of_transformers(name: str, tied: bool, tmp_path: Path) -> None:
    model = LanguageModel(parse(name), dataclasses.replace(SHAPE, tied_head=tied), seed=5)
    assert assert_goes_there_and_back(model, to_hf_gpt_neox, from_hf_gpt_neox, tmp_path).shape == model.shape


def test_weights_are_copies() -> None:
    assert_weights_are_copies(hf_neox(), from_hf_gpt_neox, tokens())


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
