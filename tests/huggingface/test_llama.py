"""Llama(SM+RMS+Swi) is Hugging Face's LLaMA, Mistral and Qwen2: same logits, same gradients, and a round trip through their files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.huggingface import from_hf_llama, open_hf_model, to_hf_llama
from hushlm.model import LanguageModel
from tests.huggingface.models import save_gguf, tiny
from tests.huggingface.parity import (
    assert_goes_there_and_back,
    assert_same_entropies,
    assert_same_greedy_answers,
    assert_same_logits_and_gradients,
    stirred,
    tokens,
)

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SHAPE = ModelShape(
    layers=3,
    heads=4,
    width=32,
    context=24,
    vocabulary=37,
    tied_head=False,
    rotary_share=1.0,
    explicit_ffn_width=52,
    key_value_heads=2,
    norm_epsilon=1e-6,
)


def hf_llama(family: str = "Llama", **settings: Any) -> Any:
    torch.manual_seed(0)
    config = {
        "vocab_size": 37,
        "max_position_embeddings": 24,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 52,
        "bos_token_id": None,
        "eos_token_id": None,
    } | ({"head_dim": 8, "sliding_window": None} if family == "Mistral" else {})
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**(config | settings)))
    return stirred(model, 0.1)


ROPE = {"rope_type": "default", "rope_theta": 500.0}


@pytest.mark.parametrize(
    ("family", "settings", "name"),
    [
        ("Llama", {}, "Llama(SM+RMS+Swi)"),
        ("Llama", {"tie_word_embeddings": True, "rope_parameters": ROPE, "rms_norm_eps": 1e-3}, "Llama(SM+RMS+Swi)"),
        ("Llama", {"num_key_value_heads": 4, "hidden_act": "linear"}, "Llama(SM+RMS+B)"),
        ("Mistral", {"num_key_value_heads": 1}, "Llama(SM+RMS+Swi)"),
        ("Mistral", {"sliding_window": 24}, "Llama(SM+RMS+Swi)"),
        ("Qwen2", {}, "Llama(SM+RMS+Swi)"),
        ("Qwen2", {"tie_word_embeddings": True}, "Llama(SM+RMS+Swi)"),
    ],
)
def test_logits_and_gradients_equal_those_of_the_family(family: str, settings: dict[str, Any], name: str, tmp_path: Path) -> None:
    hf_llama(family, **settings).save_pretrained(tmp_path)
    hf_model = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path).eval()
    model = from_hf_llama(hf_model)
    assert model.architecture == parse(name)
    assert model.shape == dataclasses.replace(
        SHAPE,
        tied_head=settings.get("tie_word_embeddings", False),
        key_value_heads=settings.get("num_key_value_heads", 2),
        norm_epsilon=settings.get("rms_norm_eps", 1e-6),
        rotary_base=500.0 if "rope_parameters" in settings else 10_000.0,
        qkv_bias=family == "Qwen2",
    )
    assert_same_logits_and_gradients(hf_model, from_hf_llama, tokens())


def test_entropies_equal_those_of_llamas_attention_weights() -> None:
    assert_same_entropies(hf_llama(attn_implementation="eager"), from_hf_llama, tokens())


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
def test_greedy_answers_are_those_of_the_family(family: str) -> None:
    assert_same_greedy_answers(hf_llama(family), from_hf_llama)


@pytest.mark.parametrize("changes", [{}, {"tied_head": True}, {"qkv_bias": True}, {"key_value_heads": None, "explicit_ffn_width": None}])
@pytest.mark.parametrize("name", ["Llama(SM+RMS+Swi)", "Llama(SM+RMS+B)"])
def test_round_trip_through_the_files_of_transformers(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = LanguageModel(parse(name), dataclasses.replace(SHAPE, **changes), seed=5)
    back = assert_goes_there_and_back(model, to_hf_llama, from_hf_llama, tmp_path)
    assert back.shape.cache_heads == model.shape.cache_heads
    assert back.shape.ffn_width == model.shape.ffn_width


def test_a_gguf_file_is_taken_over(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    hf_model = tiny("llama")
    save_gguf(hf_model, tmp_path / "tiny.gguf")
    opened, _ = open_hf_model(str(tmp_path / "tiny.gguf"))
    batch = torch.arange(20)[None]
    torch.testing.assert_close(from_hf_llama(opened)(batch).logits_BTV, hf_model(batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        ("Llama", {"hidden_act": "gelu"}, "LLaMA cannot.*activation 'gelu'"),
        ("Llama", {"attention_bias": True}, "bias on attention's output"),
        ("Llama", {"mlp_bias": True}, "biases in the feed-forward"),
        ("Llama", {"head_dim": 16}, "width of 32 with 4 heads of 16"),
        ("Llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("Mistral", {"sliding_window": 8}, "Mistral cannot.*sliding window of 8 tokens"),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "Qwen2 cannot.*sliding window of 8 tokens"),
    ],
)
def test_a_llama_without_an_equal_here_is_refused(family: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_hf_llama(hf_llama(family, **settings))


@pytest.mark.parametrize(
    "name", ["SM+LN+G", "Llama(SM+RMS+G)", "Llama(SM2+RMS+Swi)", "Llama(SM(th)+RMS+Swi)", "Llama(SM+LN+Swi)", "NeoX(SM+RMS+Swi)"]
)
def test_what_is_no_llama_is_not_written_as_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no LLaMA"):
        to_hf_llama(LanguageModel(parse(name), SHAPE))


@pytest.mark.parametrize(("changes", "what"), [({"prefix": 1}, "a prefix"), ({"rotary_share": 0.5}, "rotary positions on 4 of 8 entries")])
def test_sizes_that_llama_does_not_know_are_not_written(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=f"has no {what}"):
        to_hf_llama(LanguageModel(parse("Llama(SM+RMS+Swi)"), dataclasses.replace(SHAPE, **changes)))


def test_missing_transformers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"install hushlm\[hf\]"):
        to_hf_llama(LanguageModel(parse("Llama(SM+RMS+Swi)"), SHAPE))
