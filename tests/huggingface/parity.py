"""What every family of models that is taken over from transformers must keep: logits, gradients, entropies, greedy answers, weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hushlm.model import LanguageModel
from tests.huggingface.models import prefixed

Take = Callable[[Any], LanguageModel]
VOCABULARY = 37


def tokens(context: int = 24) -> Tensor:
    return torch.randint(0, VOCABULARY, (2, context), generator=torch.Generator().manual_seed(1))


def stirred(model: Any, spread: float) -> Any:
    """The model with random numbers added to its weights, so that nothing is accidentally zero or one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model.eval()


def _loss(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    return functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())


def assert_same_logits_and_gradients(hf_model: Any, take: Take, tokens_BT: Tensor, gradient_rtol: float = 1e-4) -> None:
    model = take(hf_model)
    theirs, ours = hf_model(tokens_BT).logits, model(tokens_BT).logits_BTV
    assert float(theirs.detach().std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    _loss(theirs, tokens_BT).backward()
    _loss(ours, tokens_BT).backward()
    # The gradients, under the names of either side: what takes weights over takes gradients over.
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.copy_(parameter.grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hushlm.huggingface.exchange.check_same_logits", lambda *arguments: None)
        expected = dict(take(hf_model).named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=gradient_rtol, atol=1e-5, msg=partial(prefixed, key))


def assert_same_entropies(hf_model: Any, take: Take, tokens_BT: Tensor) -> None:
    """Args: hf_model: with `attn_implementation="eager"`, which gives its attention weights."""
    p_LBHTS = torch.stack(hf_model(tokens_BT, output_attentions=True).attentions).double()
    expected = -torch.where(p_LBHTS > 0, p_LBHTS * p_LBHTS.clamp_min(1e-300).log(), 0).sum(-1)
    entropy_nats_LBHT = take(hf_model)(tokens_BT, with_entropy=True).entropy_nats_LBHT
    assert entropy_nats_LBHT is not None
    torch.testing.assert_close(entropy_nats_LBHT.double(), expected, rtol=1e-5, atol=1e-5)


def assert_same_greedy_answers(hf_model: Any, take: Take) -> None:
    prompt = torch.tensor([[3, 1, 4]])
    theirs = hf_model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert take(hf_model).greedy([3, 1, 4], 12) == theirs[0, 3:].tolist()


def assert_goes_there_and_back(model: LanguageModel, write: Callable[[LanguageModel], Any], take: Take, folder: Path) -> LanguageModel:
    """Through the files of transformers. Returns: what came back."""
    import transformers

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    write(model).save_pretrained(folder)
    back = take(transformers.AutoModelForCausalLM.from_pretrained(folder))
    assert back.architecture == model.architecture
    ours, theirs = model.state_dict(), back.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    return back


def assert_weights_are_copies(hf_model: Any, take: Take, tokens_BT: Tensor) -> None:
    model = take(hf_model)
    before = model(tokens_BT).logits_BTV
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.zero_()
    assert torch.equal(model(tokens_BT).logits_BTV, before)
