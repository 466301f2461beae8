"""Every rewrite of the export keeps the function of the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.private.models import SHAPE, arrays, next_logits, random_model

from hushlm.architectures import REGISTRY, Architecture, FeedForward, parse
from hushlm.config import ModelShape
from hushlm.plan import HUSH, Rewrites
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import RevealPolicy, describe
from hushlm.private.program.fold import ffn_map, fold_weights, moving_bases
from hushlm.private.program.generate import PrivateGenerator

# The polynomial GELU is the one approximation; tests of exactness use GPT-2's own, and the polynomial has a test of its own.
EXACT = replace(HUSH, gelu="tanh")
WITHOUT = {
    "all": EXACT,
    "lower triangle": replace(EXACT, triangle=False),
    "late division": replace(EXACT, divide_late=False),
    "one product a decoded row": replace(EXACT, one_product_decode=False),
    "matrix products for numbers": replace(EXACT, row_products="numbers"),
    "absorbed FFNs": replace(EXACT, explicit_ffns=tuple(range(SHAPE.layers))),
    "one run of absorbed FFNs": replace(EXACT, explicit_ffns=(2,)),
}


def largest_relative_error(
    architecture: Architecture, rewrites: Rewrites, prompt_length: int = 37, new_tokens: int = 3, shape: ModelShape = SHAPE
) -> float:
    """Over a prefill and further tokens with the key-value cache, relative to the largest logit."""
    model = random_model(architecture, shape)
    weights = fold_weights(arrays(model), architecture, shape, rewrites)
    generator = PrivateGenerator(ReferenceBackend(), describe(architecture, shape, rewrites), weights)
    tokens = np.random.default_rng(3).integers(0, shape.vocabulary, prompt_length).tolist()
    worst = 0.0
    for answer in generator.generate(tokens, prompt_length, new_tokens, RevealPolicy(kind="logits")):
        wanted = next_logits(model, tokens)
        assert answer.logits is not None
        assert answer.token is not None
        worst = max(worst, float(np.abs(answer.logits - wanted).max() / np.abs(wanted).max()))
        tokens.append(answer.token)
    return worst


OTHERS = (
    *(f"NeoX({row})" for row in ("SM+LN+R", "SM+LN", "SM+R", "SM", "SM+ScFFN", "SM2+ScFuFFN", "SM+WNorm(QKVO+FFN)", "SM(t)+ScFuFFN")),
    "NeoX(SM+ScFuFFN(2 deepest FFNs removed))",
    "NeoX(SM2+LNf+ScFuFFN)",
    "SM2(th)+LNf+ScFuFFN",
    "SM+LNf(2 deepest FFNs removed)",
    "SM+LNf+R",
    "SM+LN+B",
    *(f"NeoX({row})" for row in ("SM2+R2", "SM+LN+Q", "SM2+B", "SM+LN+B", "SM+RMS+Swi", "SM2+SwiQ")),
    *(f"Llama({row})" for row in ("SM+RMS", "SM+LN+R", "SM(t)+ScFuFFN", "SM2+R", "SM+LNf+ScFFN", "SM2+B", "SM1+SwiQ", "SM+RMS+B")),
    "SM+RMS+SwiQ",
    "SM+Swi",
)
"""NeoX blocks, whose attention and FFN stand side by side, and a LayerNorm before the head only."""


@pytest.mark.parametrize("name", OTHERS)
def test_neox_blocks_and_final_norms_are_the_checkpoints_function(name: str) -> None:
    assert largest_relative_error(parse(name), EXACT) < 1e-9


@pytest.mark.parametrize("name", [name for name in OTHERS if parse(name).feed_forward.is_linear and not parse(name).has_block_norm])
def test_their_ffns_can_be_kept_as_products(name: str) -> None:
    assert largest_relative_error(parse(name), replace(EXACT, explicit_ffns=(0, 3))) < 1e-9


def test_an_untied_head_is_the_checkpoints() -> None:
    assert largest_relative_error(parse("NeoX(SM2+ScFuFFN)"), EXACT, shape=replace(SHAPE, tied_head=False, rotary_share=1.0)) < 1e-9


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_program_is_the_checkpoints_function(architecture: Architecture) -> None:
    # GPT-NeoX's own GELU is the exact one, and the program's tanh form of it is up to 5e-4 away.
    exact_gelu = architecture.is_parallel and architecture.feed_forward is FeedForward.GELU
    assert largest_relative_error(architecture, EXACT) < (1e-3 if exact_gelu else 1e-9)


@pytest.mark.parametrize("name", ["SM2(t)+ScFuFFN", "SM+LN", "SM2+R", "SM"])
@pytest.mark.parametrize("without", WITHOUT)
def test_each_rewrite_alone_keeps_the_function(name: str, without: str) -> None:
    assert largest_relative_error(parse(name), WITHOUT[without]) < 1e-9


@pytest.mark.parametrize("prompt_length", [1, 31, 32, 33, 60])
def test_lengths_on_both_sides_of_a_bucket(prompt_length: int) -> None:
    assert largest_relative_error(parse("SM2+R"), EXACT, prompt_length, 4) < 1e-9


def test_a_crossing_into_the_next_bucket_while_decoding() -> None:
    assert largest_relative_error(parse("SM2(t)+ScFuFFN"), EXACT, 30, 6) < 1e-9


def test_bases_follow_the_ffns_and_rest_in_the_middle() -> None:
    architecture = parse("SM+ScFuFFN")
    state = arrays(random_model(architecture))
    bases = moving_bases(state, architecture, SHAPE, HUSH)
    np.testing.assert_allclose(bases[SHAPE.layers // 2].matrix_DD, np.eye(SHAPE.width), atol=1e-12)
    for layer in range(SHAPE.layers):
        wanted = bases[layer].matrix_DD @ ffn_map(state, architecture, layer)[0]
        np.testing.assert_allclose(bases[layer + 1].matrix_DD, wanted, atol=1e-9)
        np.testing.assert_allclose(bases[layer].matrix_DD @ bases[layer].inverse_DD, np.eye(SHAPE.width), atol=1e-9)


def test_absorbed_ffns_leave_no_tensor_behind() -> None:
    architecture = parse("SM+ScFuFFN")
    weights = fold_weights(arrays(random_model(architecture)), architecture, SHAPE, HUSH)
    assert not [name for name in weights if "ffn" in name]
    kept = fold_weights(arrays(random_model(architecture)), architecture, SHAPE, replace(HUSH, explicit_ffns=(1,)))
    assert [name for name in kept if "ffn" in name] == ["1.ffn.weight", "1.ffn.bias"]


GROUPED = replace(SHAPE, key_value_heads=2, explicit_ffn_width=44, rotary_share=1.0, norm_epsilon=1e-3, tied_head=False)


@pytest.mark.parametrize(
    "changes", [{}, {"prefix": 1}, {"prefix": 3, "key_value_heads": 1}, {"key_value_heads": 4, "prefix": 2, "qkv_bias": True}]
)
@pytest.mark.parametrize("name", ["Llama(SM+RMS+Swi)", "Llama(SM2(t)+RMS+SwiQ)", "Llama(SM2+R)", "NeoX(SM2+ScFuFFN)", "NeoX(SM+LN+R)"])
@pytest.mark.parametrize("rewrites", [EXACT, replace(EXACT, triangle=False, one_product_decode=False, divide_late=False)])
def test_grouped_heads_and_prefixes_are_the_checkpoints_function(name: str, changes: dict[str, Any], rewrites: Rewrites) -> None:
    """From one bucket into the next."""
    assert largest_relative_error(parse(name), rewrites, 30, 4, replace(GROUPED, **changes)) < 1e-9


def test_grouped_heads_need_no_rotary_positions() -> None:
    assert largest_relative_error(parse("SM2(th)+LN+R"), EXACT, shape=GROUPED) < 1e-9
