"""`residual_init`: the factor on what writes to the stream at the start."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.model import LanguageModel

SHAPE = ModelShape(layers=3, heads=2, width=8, context=12, vocabulary=19)


def tokens() -> torch.Tensor:
    return torch.randint(0, 19, (2, 12), generator=torch.Generator().manual_seed(1))


RESIDUAL = ("output.weight", "contract.weight", "fused.weight")


def test_residual_init_scales_what_writes_to_the_stream_and_nothing_else() -> None:
    for name in ("SM+LN+G", "SM(t)+ScFuFFN", "NeoX(SM+R)"):
        plain, half = (LanguageModel(parse(name), SHAPE, residual_init=factor, seed=2).state_dict() for factor in (1.0, 0.5))
        for key, x in plain.items():
            torch.testing.assert_close(half[key], 0.5 * x if key.endswith(RESIDUAL) else x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["SM+LN+G", "SM+R", "SM+ScFFN", "SM2(t)+ScFuFFN", "NeoX(SM+LN+G)", "SM+SNorm(QK)"])
def test_without_residual_init_every_block_starts_as_the_identity_and_still_learns(name: str) -> None:
    model = LanguageModel(parse(name), SHAPE, residual_init=0.0)
    x_BTD = torch.randn(2, 12, SHAPE.width)
    for block in model.blocks:
        assert torch.equal(block(x_BTD)[0], x_BTD)
    functional.cross_entropy(model(tokens()).logits_BTV.flatten(0, 1), tokens().flatten()).backward()
    for key, parameter in model.named_parameters():
        assert not key.endswith(RESIDUAL) or (parameter.grad is not None and bool(parameter.grad.any())), key


def test_a_zero_matrix_cannot_be_normalised() -> None:
    for norm in ("WNorm(FFN)", "SNorm(QKVO+FFN)"):
        with pytest.raises(ValueError, match="residual_init = 0"):
            LanguageModel(parse(f"SM+{norm}"), SHAPE, residual_init=0.0)
