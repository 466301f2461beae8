"""What a state dict holds beyond a GPT-2, a GPT-NeoX or a LLaMA is refused by name; what is taken over can be exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hushlm.cli.main import main
from hushlm.data.chat_files import ChatFiles, read_chat_files
from hushlm.files import verify_manifest
from hushlm.huggingface import from_hf_gpt2, from_hf_gpt_neox, from_hf_llama, save_hf_checkpoint
from hushlm.private.program.export_model import export_model
from hushlm.training.checkpoint import load_checkpoint, load_training_state
from tests.huggingface.models import VOCABULARY, save_with_tokenizer, tiny

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")


def gpt2(**settings: Any) -> Any:
    return tiny("gpt2", **settings)


def neox(**settings: Any) -> Any:
    return tiny("gpt_neox", **({"intermediate_size": 64} | settings))


def llama(**settings: Any) -> Any:
    return tiny("llama", **settings)


EACH = pytest.mark.parametrize(
    ("make", "take_over", "inner"),
    [(gpt2, from_hf_gpt2, "c_attn"), (neox, from_hf_gpt_neox, "dense"), (llama, from_hf_llama, "o_proj")],
)


def head_bias(model: Any, inner: str) -> Any:
    old = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features, bias=True)
    head.weight = old.weight
    model.set_output_embeddings(head)
    return model


def lora_inside(model: Any, inner: str) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[inner], fan_in_fan_out=inner == "c_attn")).base_model.model


def lora_around(model: Any, inner: str) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[inner], fan_in_fan_out=inner == "c_attn"))


def int8_head(model: Any, inner: str) -> Any:
    """As far as there is a Linear to quantise: GPT-2's head is the only one, GPT-NeoX has them everywhere."""
    return torch.ao.quantization.quantize_dynamic(model, {type(model.get_output_embeddings())})


def integer_weights(model: Any, inner: str) -> Any:
    block = next(module for name, module in model.named_modules() if name.endswith(inner))
    block.weight = torch.nn.Parameter(block.weight.to(torch.int8), requires_grad=False)
    return model


def added_layer(model: Any, inner: str) -> Any:
    model.get_input_embeddings().register_buffer("scale_by", torch.ones(1))
    return model


def two_types(model: Any, inner: str) -> Any:
    next(module for name, module in model.named_modules() if name.endswith(inner)).half()
    return model


def other_vocabulary(model: Any, inner: str) -> Any:
    old = model.get_output_embeddings()
    model.set_output_embeddings(torch.nn.Linear(old.in_features, old.out_features + 3, bias=False))
    return model


def other_activation(model: Any, inner: str) -> Any:
    for name, module in model.named_modules():
        if name.endswith("mlp"):
            module.act = module.act_fn = torch.nn.Mish()
    return model


def hook_on_a_layer(model: Any, inner: str) -> Any:
    block = next(module for name, module in model.named_modules() if name.endswith(inner))
    block.register_forward_hook(lambda *arguments: 1.5 * arguments[-1])
    return model


@EACH
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*", "ignore::UserWarning:torch.*", "ignore:torch.ao:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (head_bias, r"(lm_head|embed_out)\.bias has no equal here"),
        (lora_inside, "base_layer.weight.*Merge adapters"),
        (lora_around, "not PeftModel"),
        (int8_head, r"(has no|of type).*unquantised"),
        (integer_weights, "is of type torch.int8"),
        (added_layer, "scale_by has no equal here"),
        (two_types, r"several types \(torch.float16, torch.float32\)"),
        (other_vocabulary, r"asks for head.weight of shape \(41, \d+\), but the weights have \(44, \d+\)"),
        (other_activation, "computes something else"),
        (hook_on_a_layer, "computes something else"),
    ],
)
def test_nothing_is_left_behind_in_silence(
    make: Callable[..., Any], take_over: Callable[..., Any], inner: str, change: Callable[..., Any], named: str
) -> None:
    model = change(make(tie_word_embeddings=False), inner)
    with pytest.raises(ValueError, match=named):
        take_over(model)


@EACH
def test_half_precision_and_thresholds_of_the_trainer_are_taken_over(make: Callable[..., Any], take_over: Any, inner: str) -> None:
    model = make()
    tokens = torch.arange(20)[None]
    model.add_module("entropy_regulariser", torch.nn.ParameterDict({"threshold_LH": torch.ones(3, 4)}))
    torch.testing.assert_close(take_over(model)(tokens).logits_BTV, model(tokens).logits, rtol=1e-4, atol=1e-4)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert take_over(make().to(dtype)).embedding.weight.dtype is dtype


@pytest.mark.parametrize("make", [gpt2, neox, llama])
def test_a_vendors_model_becomes_a_checkpoint_and_a_private_program(
    make: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = tmp_path / "vendor"
    model = make(vocab_size=VOCABULARY + 1)
    save_with_tokenizer(model, vendor, separator=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(vendor)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    checkpoint = save_hf_checkpoint(model, tokenizer, tmp_path / "ours")
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(checkpoint.model(tokens).logits_BTV, model(tokens).logits, rtol=1e-4, atol=1e-4)
    assert checkpoint.tokenizer.encode("w1 w2 w3 w4 w5 w6").ids == [1, 2, 3, 4, 5, 6]
    assert tokenizer.backend_tokenizer.truncation is not None, "the caller's tokenizer stays as it was"
    report = export_model(checkpoint, tmp_path / "program")
    assert report.rounding_error < 0.05
    words = ["ask", "w1 w2 w3 w4 w5 w6", "--model", str(tmp_path / "ours"), "--mode", "plain", "--new-tokens", "3", "--json"]
    assert main(words) == 0
    expected = model.generate(torch.arange(1, 7)[None], max_new_tokens=3, do_sample=False, pad_token_id=0)[0, 6:].tolist()
    assert f'"tokens": {expected}' in " ".join(capsys.readouterr().out.split()).replace("[ ", "[").replace(" ]", "]")
    with pytest.raises(ValueError, match="no training state"):
        load_training_state(checkpoint)


def test_a_chat_template_and_the_ends_of_answers_come_along(tmp_path: Path) -> None:
    """From the vendor's objects to the client's folder; nothing else that the vendor's files say, such as where they lay."""
    vendor = tmp_path / "vendor"
    model = gpt2(vocab_size=VOCABULARY + 1)
    save_with_tokenizer(model, vendor, separator=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(vendor)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = [3, 5]
    checkpoint = save_hf_checkpoint(model, tokenizer, tmp_path / "ours")
    files = read_chat_files(checkpoint.folder)
    assert (files.template, files.tokens["eos_token"], files.end_ids) == (tokenizer.chat_template, "<|endoftext|>", (3, 5))
    export_model(checkpoint, tmp_path / "program")
    assert read_chat_files(tmp_path / "program/client") == files
    assert read_chat_files(tmp_path / "program/server") == ChatFiles()
    assert "vendor" not in (tmp_path / "program/client/tokenizer_config.json").read_text()
    verify_manifest(tmp_path / "program/client")


def test_what_is_no_checkpoint_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vendor = tmp_path / "vendor"
    save_with_tokenizer(gpt2(), vendor)
    for words in (
        ["export", str(vendor), str(tmp_path / "out")],
        ["eval", str(vendor)],
        ["ask", "w1", "--mode", "plain", "--model", str(vendor)],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "is a Hugging Face folder" in error
        assert f"hushlm import {vendor}" in error
    with pytest.raises(ValueError, match="Hugging Face folder"):
        load_checkpoint(vendor)
    with pytest.raises(ValueError, match=r"not a LanguageModel: .*save_hf_checkpoint"):
        export_model(from_hf_gpt2(gpt2()), tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_model_and_a_tokenizer_that_make_no_checkpoint_are_refused(tmp_path: Path) -> None:
    save_with_tokenizer(gpt2(), tmp_path / "vendor")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "vendor")
    config = transformers.GPTJConfig(vocab_size=41, n_positions=8, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    gptj = transformers.GPTJForCausalLM(config)
    with pytest.raises(ValueError, match="A gptj cannot be taken over"):
        save_hf_checkpoint(gptj, tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match="knows 41 tokens and the model 40"):
        save_hf_checkpoint(gpt2(vocab_size=40), tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        save_hf_checkpoint(gpt2(), object(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
