"""Entropy attention inside models of transformers: their own logits, and the entropies of the attention matrices they would hand out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from hushlm.huggingface import ENTROPY_ATTENTION, measure_head_entropies, record_entropies, use_entropy_attention
from tests.huggingface.models import FAMILIES, VOCABULARY, batch, eager, prefixed, tiny

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_logits_and_entropies_equal_eager_attention(family: str, padding: str | None) -> None:
    model, inputs = tiny(family), batch(padding)
    logits, entropy_LHN = eager(model, inputs)
    use_entropy_attention(model)
    assert model.config._attn_implementation == ENTROPY_ATTENTION
    with record_entropies() as record:
        ours = model(**inputs).logits
    rows_LHN = record.rows_LHN()
    assert rows_LHN.shape == (3, 4, int(inputs["attention_mask"].sum()))
    torch.testing.assert_close(rows_LHN.double(), entropy_LHN, rtol=1e-5, atol=1e-5)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[real], logits[real], rtol=1e-5, atol=2e-5)


@every_family
@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_gradients_of_loss_and_entropy_equal_eager_attention(family: str, padding: str | None) -> None:
    model, inputs = tiny(family), batch(padding)
    real = inputs["attention_mask"].bool()

    def gradients(logits: torch.Tensor, rows_LHN: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss = functional.cross_entropy(logits[:, :-1][real[:, 1:]], inputs["input_ids"][:, 1:][real[:, 1:]])
        (loss + rows_LHN.square().mean()).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients(*eager(model, inputs))
    use_entropy_attention(model)
    with record_entropies() as record:
        logits = model(**inputs).logits
    for name, gradient in gradients(logits, record.rows_LHN()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=partial(prefixed, name))


@every_family
def test_generation_with_a_cache_is_that_of_eager_attention(family: str) -> None:
    model = tiny(family)
    prompt = batch("left")
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    short = {name: x[:, -8:] for name, x in prompt.items()}
    assert short["attention_mask"].sum(1).tolist() == [8, 8, 3]
    model.set_attn_implementation("eager")
    expected = model.generate(**short, **settings)
    use_entropy_attention(model)
    assert torch.equal(model.generate(**short, **settings), expected)


def test_sliding_windows_are_seen() -> None:
    config = transformers.MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        sliding_window=5,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    logits, entropy_LHN = eager(model, batch())
    use_entropy_attention(model)
    with record_entropies() as record:
        ours = model(**batch()).logits
    rows_LHN = record.rows_LHN().detach()
    torch.testing.assert_close(rows_LHN.double(), entropy_LHN.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    assert float(rows_LHN.max()) <= torch.tensor(5.0).log() + 1e-6


def test_dropout_acts_on_the_output_and_leaves_the_entropy() -> None:
    model = tiny("gpt2", attn_pdrop=0.5)
    _, entropy_LHN = eager(model, batch())
    use_entropy_attention(model)
    model.train()
    outputs, rows = [], []
    for _ in range(2):
        with record_entropies() as record:
            outputs.append(model(**batch()).logits)
        rows.append(record.rows_LHN())
    assert not torch.allclose(outputs[0], outputs[1])
    # The first layer's entropies are of scores that no dropout has touched yet.
    torch.testing.assert_close(rows[0][0].double(), entropy_LHN[0], rtol=1e-5, atol=1e-5)


def test_bfloat16_runs_and_stays_near() -> None:
    model, inputs = tiny("llama", spread=0.05), batch("right")
    expected = measure_head_entropies(model, [inputs]).head_entropy_nats_LH
    half = measure_head_entropies(model.to(torch.bfloat16), [inputs]).head_entropy_nats_LH
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)


@every_family
def test_measured_means_are_over_rows_not_over_batches(family: str) -> None:
    model = tiny(family)
    inputs = batch("right")
    _, entropy_LHN = eager(model, inputs)
    pieces = [{name: x[i : i + 1] for name, x in inputs.items()} for i in range(3)]
    model.train()
    measured = measure_head_entropies(model, pieces)
    assert model.training
    assert measured.rows == int(inputs["attention_mask"].sum())
    torch.testing.assert_close(measured.head_entropy_nats_LH, entropy_LHN.mean(-1), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(measured.head_entropy_nats_LH[0, 0], measured.head_entropy_nats_LH[0, 1])


def test_mistakes_are_told_in_a_sentence() -> None:
    model = tiny("gpt2")
    with record_entropies() as record:
        model(**batch())
    with pytest.raises(ValueError, match=r"use_entropy_attention\(model\) first"):
        record.rows_LHN()
    use_entropy_attention(model)
    with record_entropies():
        model(**batch())
        with pytest.raises(ValueError, match="new record"):
            model(**batch())
    with pytest.raises(ValueError, match="no text"):
        measure_head_entropies(model, [])
    encoder = transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    use_entropy_attention(encoder)
    with pytest.raises(ValueError, match="two-way"):
        encoder(torch.tensor([[1, 2, 3]]))
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9))
    with pytest.raises(ValueError, match="does not let its attention be exchanged"):
        use_entropy_attention(t5)


def random_heads(width: int, heads: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, heads, 9, width, generator=torch.Generator().manual_seed(seed))


class _Module(torch.nn.Module):
    layer_idx, is_causal, num_key_value_groups = 0, True, 1


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("what", ["types under autocast", "types", "position bias", "width of the values", "causal in the call"])
def test_every_argument_of_the_interface_means_what_it_means_to_sdpa(what: str, padded: bool) -> None:
    """Arguments that the library's own attention understands are never refused or passed over."""
    sdpa = transformers.AttentionInterface()["sdpa"]
    use_entropy_attention(tiny("gpt2"))
    ours = transformers.AttentionInterface()[ENTROPY_ATTENTION]
    query, key, value = random_heads(8, seed=1), random_heads(8, seed=2), random_heads(8, seed=3)
    module = _Module()
    settings: dict[str, Any] = {}
    if what.startswith("types"):
        value = value.bfloat16()
    elif what == "position bias":
        settings["position_bias"] = torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(4))[None]
    elif what == "width of the values":
        value = random_heads(6, seed=3)
    else:
        module.is_causal, settings = False, {"is_causal": True}
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1) if padded else None
    if mask is not None:
        mask[1, :, :, :3] = False
        mask[1, :, range(3), range(3)] = True  # as transformers leaves rows of padding: they see themselves
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=what == "types under autocast"), record_entropies() as record:
        found, _ = ours(module, query, key, value, mask, **settings)
        if what == "types":  # sdpa itself refuses mixed types outside autocast
            value = value.float()
        expected, _ = sdpa(module, query, key, value, mask, **settings)
    assert found.dtype is expected.dtype
    loose = 1e-2 if what == "types under autocast" else 1e-5
    torch.testing.assert_close(found, expected, rtol=loose, atol=loose)
    assert bool(record.rows_LHN().isfinite().all())


def test_two_way_attention_in_the_call_is_refused() -> None:
    use_entropy_attention(tiny("gpt2"))
    ours = transformers.AttentionInterface()[ENTROPY_ATTENTION]
    with pytest.raises(ValueError, match="two-way"):
        ours(_Module(), *(random_heads(8) for _ in range(3)), None, is_causal=False)
