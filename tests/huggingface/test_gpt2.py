"""SM+LN+G is Hugging Face's GPT-2: same logits, same gradients, and a round trip through its files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.huggingface.gpt2 import from_hf_gpt2, to_hf_gpt2
from hushlm.model.language_model import LanguageModel
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

SHAPE = ModelShape(layers=3, heads=4, width=24, context=16, vocabulary=37)


def hf_gpt2(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = {"vocab_size": 37, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    return stirred(transformers.GPT2LMHeadModel(transformers.GPT2Config(**(config | settings))), 0.05)


TOKENS = tokens(SHAPE.context)


@pytest.mark.parametrize(("activation", "name"), [("gelu_new", "SM+LN+G"), ("relu", "SM+LN+R"), ("relu2", "SM+LN+R2"), ("linear", "SM+LN")])
def test_logits_and_gradients_equal_gpt2(activation: str, name: str) -> None:
    hf_model = hf_gpt2(activation_function=activation)
    model = from_hf_gpt2(hf_model)
    assert model.architecture == parse(name)
    assert model.shape == SHAPE
    assert_same_logits_and_gradients(hf_model, from_hf_gpt2, TOKENS)


def test_entropies_and_greedy_answers_are_those_of_gpt2() -> None:
    assert_same_entropies(hf_gpt2(attn_implementation="eager"), from_hf_gpt2, TOKENS)
    assert_same_greedy_answers(hf_gpt2(), from_hf_gpt2)


@pytest.mark.parametrize("name", ["SM+LN+G", "SM+LN+R", "SM+LN+R2", "SM+LN"])
def test_round_trip_through_the_files_of_transformers(name: str, tmp_path: Path) -> None:
    model = LanguageModel(parse(name), SHAPE, seed=5)
    assert assert_goes_there_and_back(model, to_hf_gpt2, from_hf_gpt2, tmp_path).shape == model.shape


def test_weights_are_copies() -> None:
    assert_weights_are_copies(hf_gpt2(), from_hf_gpt2, TOKENS)


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
    torch.testing.assert_close(model(TOKENS).logits_BTV, hf_model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_hf_gpt2(model)(TOKENS).logits, hf_model(TOKENS).logits, rtol=1e-5, atol=1e-5)


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
