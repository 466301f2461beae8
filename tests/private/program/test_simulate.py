"""The compiled programs in the engine's fixed-point arithmetic, in one process and in the clear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.private.models import SMALL, arrays, next_logits, random_model

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.model import LanguageModel
from hushlm.private.engine import Engine, Party
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.description import RevealPolicy, describe
from hushlm.private.program.export_model import choose_rewrites
from hushlm.private.program.fold import fold_weights
from hushlm.private.program.generate import PrivateGenerator

pytest.importorskip("spu")

# Stated errors of the whole program, in standard deviations of the logits. SMn is served as it was trained; exact softmax leaves the
# gap of its exponential, LayerNorm that of the inverse root, and GELU that of its polynomial. The weights of a power kernel are made
# small, so that those of a trained model fit, and lose some bits.
ERRORS = {
    "SM": 3e-3,
    "SM+R": 3e-3,
    "SM2+R": 2e-4,
    "SM1+ScFuFFN": 2e-4,
    "EReg(SM(t)+ScFuFFN)": 3e-3,
    "SM+LN+R": 0.02,
    "SM+LN+G": 0.1,
    "SM2+LN+P": 0.02,
    "SM2+R2": 2e-4,
    "SM2+Q": 2e-4,
    "SM2+B": 2e-4,
    "NeoX(SM2+Q)": 2e-4,
    "NeoX(SM2+R)": 2e-4,
    "NeoX(SM2+LNf+ScFuFFN)": 0.02,
    "EReg(NeoX(SM(t)+ScFuFFN))": 3e-3,
    "NeoX(SM+LN+R)": 0.02,
    "Llama(SM+RMS+Swi)": 0.2,
    "Llama(SM2(th)+RMS+SwiQ)": 0.02,
    "PS2+R": 1e-3,
    "PS1(qk)+LN+R": 0.02,
    "PS3(th,qk)+LN+Q": 0.02,
    "NeoX(PS2(t,qk)+RMS+B)": 0.02,
    "Llama(PS3(th)+RMS+SwiQ)": 0.02,
}
GROUPED = replace(SMALL, heads=4, key_value_heads=2, explicit_ffn_width=27, rotary_share=1.0, prefix=1)


def simulated(name: str, seed: int = 1, shape: ModelShape = SMALL) -> tuple[LanguageModel, PrivateGenerator, EngineBackend]:
    architecture = parse(name)
    model = random_model(architecture, shape, seed, spread=0.15)
    state = arrays(model)
    rewrites, _ = choose_rewrites(state, architecture, shape, 18)
    description = describe(architecture, shape, rewrites, simulate=True)
    backend = EngineBackend(Engine(Party.CLIENT, description.engine, None))
    return model, PrivateGenerator(backend, description, fold_weights(state, architecture, shape, rewrites)), backend


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [*((name, SMALL) for name in ERRORS), *((name, GROUPED) for name in ERRORS if "Llama" in name)])
def test_fixed_point_answers_are_near_the_models(name: str, shape: ModelShape) -> None:
    model, generator, _ = simulated(name, shape=shape)
    tokens = np.random.default_rng(5).integers(0, SMALL.vocabulary, 20).tolist()
    for answer in generator.generate(tokens, len(tokens), 2, RevealPolicy(kind="logits")):
        wanted = next_logits(model, tokens)
        assert answer.logits is not None
        assert answer.token is not None
        assert np.abs(answer.logits - wanted).max() < ERRORS[name] * wanted.std()
        tokens.append(answer.token)


@pytest.mark.slow
def test_twenty_private_answers_equal_the_greedy_ones() -> None:
    model, generator, backend = simulated("SM2+R")
    random = np.random.default_rng(7)
    for number in range(20):
        prompt = random.integers(0, SMALL.vocabulary, 1 + number).tolist()
        answers = list(generator.generate(prompt, len(prompt), 4))
        assert [answer.token for answer in answers] == model.greedy(prompt, 4)
    # One bucket, so every prompt and every token ran the programs of the first answer.
    compiled = backend.compilations
    list(generator.generate([1, 2, 3], 3, 5))
    assert backend.compilations == compiled


@pytest.mark.slow
def test_what_is_revealed() -> None:
    model, generator, _ = simulated("SM2+R")
    prompt = [3, 1, 4, 1, 5]
    wanted = next_logits(model, prompt)
    token = next(generator.generate(prompt, 5, 1, RevealPolicy.parse("token")))
    assert (token.token, token.top, token.logits) == (int(wanted.argmax()), None, None)
    top = next(generator.generate(prompt, 5, 1, RevealPolicy.parse("topk:3")))
    assert top.top is not None
    assert [index for index, _ in top.top] == np.argsort(wanted)[::-1][:3].tolist()
    np.testing.assert_allclose([value for _, value in top.top], np.sort(wanted)[::-1][:3], atol=0.01)
    assert top.logits is None


@pytest.mark.parametrize("text", ["tokens", "topk", "topk:0", "topk:65", "logits:3", "token:3", ""])
def test_unknown_policies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be token, topk:K"):
        RevealPolicy.parse(text)


def test_policies_round_trip() -> None:
    for text in ("token", "topk:5", "logits"):
        assert str(RevealPolicy.parse(text)) == text


def test_too_long_or_foreign_prompts_are_refused() -> None:
    _, generator, _ = simulated("SM2+R")
    with pytest.raises(ValueError, match="shorten one of them"):
        next(generator.generate([1] * 32, 32, 1))
    with pytest.raises(ValueError, match="shorten one of them"):
        next(generator.generate([], 0, 1))
    with pytest.raises(ValueError, match="another tokenizer"):
        next(generator.generate([32], 1, 1))
