"""The language model: every architecture of the registry, and what must hold for each."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hushlm.architectures import GATE_BOUND, GATE_QUADRATIC, REGISTRY, Architecture, Blocks, FeedForward, Norm, Temperature, parse
from hushlm.config import ModelShape
from hushlm.entropy.attention import entropy_attention
from hushlm.model.block import Block
from hushlm.model.feed_forward import (
    BilinearFFN,
    FusedScaledFFN,
    GeluFFN,
    IdentityFFN,
    PolynomialFFN,
    QuadraticFFN,
    ReluFFN,
    ScaledFFN,
    SquaredReluFFN,
    SwiGluFFN,
    SwiGluQuadraticFFN,
)
from hushlm.model.language_model import LanguageModel
from hushlm.model.normalisation import LayerNorm, NoNorm, RMSNorm
from hushlm.model.rotary import rotary_tables, rotate
from hushlm.model.self_attention import MINIMUM_TEMPERATURE, Attention, KeyValueCache

SHAPE = ModelShape(layers=6, heads=2, width=8, context=12, vocabulary=19)
NAMES = (
    *(f"NeoX(SM+{rest})" for rest in ("LN+G", "LN+R", "LN", "G", "R", "ScFFN", "ScFuFFN", "WNorm(QKVO+FFN)", "SNorm(QK)")),
    "NeoX(SM)",
    "NeoX(SM+ScFuFFN(2 deepest FFNs removed))",
    "EReg(NeoX(SM(t)+ScFuFFN))",
    "NeoX(SM2(th)+R)",
    "SM+LNf+ScFuFFN",
    "SM+WNorm(QK)+LNf+R",
    "NeoX(SM2+LNf+R)",
    "SM+LN+R2",
    "SM+WNorm(QKVO+FFN)+B",
    *(f"NeoX(SM2+{ffn})" for ffn in ("R2", "Q", "B")),
    *(f"Llama(SM+{rest})" for rest in ("RMS+G", "LN+Swi", "RMS+B", "R", "ScFFN", "ScFuFFN", "RMS")),
    "EReg(Llama(SM2(t)+LNf+Swi(2 deepest FFNs removed)))",
    "SM+RMS+Swi",
    "NeoX(SM+RMS+SwiQ)",
)
"""Beside the registry: NeoX and Llama blocks, a LayerNorm before the head only, and RMSNorm and SwiGLU in other blocks."""
every_architecture = pytest.mark.parametrize("architecture", sorted({*REGISTRY, *map(parse, NAMES)}, key=str), ids=str)


def tokens(seed: int = 0, batch: int = 3, length: int = 12) -> Tensor:
    return torch.randint(0, SHAPE.vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def shaken(architecture: Architecture, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model away from its initial values, where biases are 0 and scalars 1 and mistakes hide."""
    model = LanguageModel(architecture, SHAPE, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


@every_architecture
def test_trains_with_finite_gradients_everywhere(architecture: Architecture) -> None:
    model = LanguageModel(architecture, SHAPE)
    batch = tokens()
    output = model(batch, with_entropy=True)
    assert output.logits_BTV.shape == (3, 12, SHAPE.vocabulary)
    assert output.entropy_nats_LBHT is not None
    assert output.entropy_nats_LBHT.shape == (6, 3, 2, 12)
    loss = functional.cross_entropy(output.logits_BTV[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    (loss + output.entropy_nats_LBHT.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # A key bias moves all scores of a row together, which softmax and its relatives do not see.
        assert float(parameter.grad.abs().max()) > 0 or name.endswith("key.bias"), name


@every_architecture
def test_one_step_of_plain_descent_lowers_the_loss(architecture: Architecture) -> None:
    model = LanguageModel(architecture, SHAPE)
    batch = tokens()

    def loss() -> Tensor:
        return functional.cross_entropy(model(batch).logits_BTV[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-2 * parameter.grad)
    assert loss().item() < before.item()


@every_architecture
def test_asking_for_entropy_changes_no_logit(architecture: Architecture) -> None:
    model = shaken(architecture)
    without = model(tokens())
    assert without.entropy_nats_LBHT is None
    assert torch.equal(without.logits_BTV, model(tokens(), with_entropy=True).logits_BTV)


@every_architecture
def test_future_tokens_change_no_past_logit(architecture: Architecture) -> None:
    model = shaken(architecture)
    batch = tokens()
    changed = batch.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % SHAPE.vocabulary
    before, after = (model(x, with_entropy=True) for x in (batch, changed))
    torch.testing.assert_close(before.logits_BTV[:, :7], after.logits_BTV[:, :7], rtol=0, atol=1e-6)
    torch.testing.assert_close(before.entropy_nats_LBHT[..., :7], after.entropy_nats_LBHT[..., :7], rtol=0, atol=1e-6)
    assert not torch.allclose(before.logits_BTV[:, 7:], after.logits_BTV[:, 7:])


@every_architecture
def test_greedy_with_its_cache_equals_reading_everything_again(architecture: Architecture) -> None:
    model = shaken(architecture, torch.float64).train()
    answer = model.greedy([3, 1, 4], 9)
    assert model.training
    sequence = [3, 1, 4]
    model.eval()
    for _ in range(9):
        sequence.append(int(model(torch.tensor([sequence])).logits_BTV[0, -1].argmax()))
    assert answer == sequence[3:]


@every_architecture
def test_reading_in_pieces_equals_reading_at_once(architecture: Architecture) -> None:
    model = shaken(architecture, torch.float64)
    whole = model(tokens(), with_entropy=True)
    caches = [KeyValueCache() for _ in range(SHAPE.layers)]
    pieces = [model(piece, with_entropy=True, caches=caches) for piece in tokens().split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat([piece.logits_BTV for piece in pieces], dim=1), whole.logits_BTV)
    torch.testing.assert_close(torch.cat([piece.entropy_nats_LBHT for piece in pieces], dim=3), whole.entropy_nats_LBHT)
    with pytest.raises(ValueError, match="after 12 tokens"):
        model(tokens()[:, :1], caches=caches)


@every_architecture
def test_same_seed_same_weights_and_the_global_random_state_is_untouched(architecture: Architecture) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = LanguageModel(architecture, SHAPE, seed=7).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    again, other = (LanguageModel(architecture, SHAPE, seed=seed).state_dict() for seed in (7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@every_architecture
def test_regularised_and_plain_are_the_same_graph(architecture: Architecture) -> None:
    plain, regularised = (
        LanguageModel(dataclasses.replace(architecture, entropy_regularised=flag), SHAPE, seed=3) for flag in (False, True)
    )
    assert str(plain) == str(regularised)
    assert list(plain.state_dict()) == list(regularised.state_dict())
    assert torch.equal(plain(tokens()).logits_BTV, regularised(tokens()).logits_BTV)


def nonlinear_operations(model: LanguageModel) -> Counter[str]:
    """How often each nonlinear operation is called in one forward pass, by the kinds of the modules that the model holds."""
    operations = {
        LayerNorm: ("layer_norm",),
        GeluFFN: ("gelu",),
        ReluFFN: ("relu",),
        SquaredReluFFN: ("relu", "square"),
        PolynomialFFN: ("polynomial",),
        QuadraticFFN: ("square",),
        BilinearFFN: ("product",),
        SwiGluFFN: ("product", "silu"),
        SwiGluQuadraticFFN: ("product", "quadratic_silu"),
        RMSNorm: ("rms_norm",),
    }
    linear = (LanguageModel, Block, NoNorm, IdentityFFN, ScaledFFN, FusedScaledFFN)
    counted: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, Attention):
            counted["softmax" if module.order is None else f"power_{module.order}" + ("" if module.power else "_clipped")] += 1
        elif type(module).__module__.startswith("hushlm.") and not isinstance(module, linear):
            # A kind of module that is not listed above is counted under its own name, so that it cannot pass unseen.
            counted.update(operations.get(type(module), (type(module).__name__,)))
    return counted


@every_architecture
def test_holds_the_nonlinear_modules_of_its_name_and_no_others(architecture: Architecture) -> None:
    model = LanguageModel(architecture, SHAPE)
    ffns = SHAPE.layers - architecture.removed_ffns
    clipped = "" if architecture.power else "_clipped"
    attention = "softmax" if architecture.kernel_order is None else f"power_{architecture.kernel_order}{clipped}"
    expected = {attention: SHAPE.layers}
    activations = {
        FeedForward.GELU: ["gelu"],
        FeedForward.RELU: ["relu"],
        FeedForward.SQUARED_RELU: ["relu", "square"],
        FeedForward.POLYNOMIAL: ["polynomial"],
        FeedForward.QUADRATIC: ["square"],
        FeedForward.BILINEAR: ["product"],
        FeedForward.SWIGLU: ["product", "silu"],
        FeedForward.SWIGLU_QUADRATIC: ["product", "quadratic_silu"],
    }
    expected |= dict.fromkeys(activations.get(architecture.feed_forward, []), ffns)
    kind = "rms_norm" if architecture.norm is Norm.RMS else "layer_norm"
    if architecture.has_block_norm:
        expected[kind] = SHAPE.layers + ffns
    if architecture.has_final_norm:
        expected[kind] = expected.get(kind, 0) + 1
    assert dict(nonlinear_operations(model)) == expected
    assert sum(isinstance(m, nn.LayerNorm) for m in model.modules()) == expected.get("layer_norm", 0)


@every_architecture
def test_parameters_have_the_agreed_names_and_shapes(architecture: Architecture) -> None:
    D, F, H, T, V = SHAPE.width, SHAPE.ffn_width, SHAPE.heads, SHAPE.context, SHAPE.vocabulary
    expected: dict[str, tuple[int, ...]] = {"embedding.weight": (V, D)}
    if architecture.blocks is Blocks.GPT2:
        expected["positions.weight"] = (T, D)
    norms = ["final_norm"] if architecture.has_final_norm else []
    biases = architecture.blocks is not Blocks.LLAMA
    for i in range(SHAPE.layers):
        for name in ("query", "key", "value", "output"):
            expected |= {f"blocks.{i}.attention.{name}.weight": (D, D)} | ({f"blocks.{i}.attention.{name}.bias": (D,)} if biases else {})
        if architecture.temperature is not Temperature.NONE:
            expected[f"blocks.{i}.attention.temperature"] = (H,) if architecture.temperature is Temperature.PER_HEAD else (H, T)
        has_ffn = architecture.has_ffn(i, SHAPE.layers)
        norms += [f"blocks.{i}.norm_attention", f"blocks.{i}.norm_feed_forward"][: 1 + has_ffn] if architecture.has_block_norm else []
        if not has_ffn:
            continue
        ffn = f"blocks.{i}.feed_forward"
        if architecture.feed_forward is FeedForward.SCALED_FUSED:
            maps = {"fused": (D, D)}
        else:
            gated = architecture.feed_forward in (FeedForward.BILINEAR, FeedForward.SWIGLU, FeedForward.SWIGLU_QUADRATIC)
            maps = {"expand": (F, D), "contract": (D, F)} | ({"gate": (F, D)} if gated else {})
        for name, size in maps.items():
            expected |= {f"{ffn}.{name}.weight": size} | ({f"{ffn}.{name}.bias": size[:1]} if biases else {})
        if architecture.feed_forward is FeedForward.SWIGLU_QUADRATIC:
            expected[f"{ffn}.curve"] = (3,)
        if architecture.feed_forward.is_scaled:
            expected |= {f"{ffn}.alpha": (), f"{ffn}.beta": ()}
    ends = ("weight",) if architecture.norm is Norm.RMS else ("weight", "bias")
    expected |= {f"{norm}.{end}": (D,) for norm in norms for end in ends}
    model = LanguageModel(architecture, SHAPE)
    assert {name: tuple(x.shape) for name, x in model.plain_state().items()} == expected
    if architecture.norm in (Norm.NONE, Norm.LAYER, Norm.RMS):
        assert {name: tuple(x.shape) for name, x in model.state_dict().items()} == expected


def plain_forward(state: dict[str, Tensor], architecture: Architecture, batch: Tensor) -> Tensor:
    """The model once more from its plain weights alone, written from the paper's formulas."""

    def linear(x: Tensor, name: str) -> Tensor:
        assert (f"{name}.bias" in state) == (architecture.blocks is not Blocks.LLAMA)
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in state:
            return x
        if architecture.norm is Norm.RMS:
            return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def joined(u: Tensor) -> Tensor:
        return torch.where(u > 1, u, torch.where(u < -1, torch.zeros_like(u), (u + 1) ** 2 / 4))

    def gelu(u: Tensor) -> Tensor:
        if rotary:
            return u * torch.special.ndtr(u)
        return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    def turned(x_BHTE: Tensor) -> Tensor:
        """Each pair as a complex number, times exp(i position base^(-2i/R))."""
        R = SHAPE.rotary_width
        pairs = torch.complex(x_BHTE[..., : R // 2], x_BHTE[..., R // 2 : R])
        speed = 10_000.0 ** (-2 * torch.arange(R // 2, dtype=torch.float64) / R)
        pairs = pairs * torch.exp(1j * torch.arange(T, dtype=torch.float64)[:, None] * speed)
        return torch.cat((pairs.real, pairs.imag, x_BHTE[..., R:]), -1)

    T, neox, rotary = batch.shape[1], architecture.blocks is Blocks.NEOX, architecture.blocks is not Blocks.GPT2
    x = state["embedding.weight"][batch]
    if not rotary:
        x = x + state["positions.weight"][:T]
    for i in range(SHAPE.layers):
        block = f"blocks.{i}"
        n = norm(x, f"{block}.norm_attention")
        q, k, v = (
            linear(n, f"{block}.attention.{name}").view(*batch.shape, SHAPE.heads, -1).transpose(1, 2) for name in ("query", "key", "value")
        )
        if rotary:
            q, k = turned(q), turned(k)
        t = state.get(f"{block}.attention.temperature", torch.ones(SHAPE.heads, dtype=torch.float64))
        t = t[:, :T, None] if t.ndim == 2 else t[:, None, None]
        s = (q @ k.mT / (t * math.sqrt(SHAPE.head_width))).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        if architecture.kernel_order is None:
            p = s.softmax(-1)
        elif architecture.power:
            N = 2**architecture.kernel_order
            w = ((1 + s / N) ** N + 2**-10).tril()
            p = w / w.sum(-1, keepdim=True)
        else:
            N = 2**architecture.kernel_order
            w = (1 + (s - s.amax(-1, keepdim=True)) / N).clamp_min(0) ** N
            p = w / w.sum(-1, keepdim=True)
        before, x = x, x + linear((p @ v).transpose(1, 2).reshape(x.shape), f"{block}.attention.output")
        ffn = f"{block}.feed_forward"
        if architecture.has_ffn(i, SHAPE.layers):
            n = norm(before if neox else x, f"{block}.norm_feed_forward")
            if architecture.feed_forward is FeedForward.SCALED_FUSED:
                y = linear(n, f"{ffn}.fused")
            else:
                acts = {
                    FeedForward.GELU: gelu,
                    FeedForward.RELU: lambda u: u.clamp_min(0),
                    FeedForward.SQUARED_RELU: lambda u: torch.where(u > 0, u * u, 0),
                    FeedForward.POLYNOMIAL: joined,
                    FeedForward.QUADRATIC: lambda u: u * u,
                }
                hidden = acts.get(architecture.feed_forward, lambda u: u)(linear(n, f"{ffn}.expand"))
                if architecture.feed_forward is FeedForward.BILINEAR:
                    hidden = hidden * linear(n, f"{ffn}.gate")
                elif architecture.feed_forward is FeedForward.SWIGLU:
                    hidden = hidden * linear(n, f"{ffn}.gate") * torch.sigmoid(linear(n, f"{ffn}.gate"))
                elif architecture.feed_forward is FeedForward.SWIGLU_QUADRATIC:
                    scale, slope, constant = state[f"{ffn}.curve"]
                    g = scale * linear(n, f"{ffn}.gate")
                    inside = g / 2 + GATE_QUADRATIC * g * g + slope * g.abs() + constant
                    outside = g.clamp_min(0) - GATE_BOUND / 2 + GATE_QUADRATIC * GATE_BOUND**2 + slope * GATE_BOUND + constant
                    hidden = hidden * torch.where(g.abs() < GATE_BOUND, inside, outside) / scale
                y = linear(hidden, f"{ffn}.contract")
            x = state[f"{ffn}.beta"] * x + y / state[f"{ffn}.alpha"] if architecture.feed_forward.is_scaled else x + y
    return norm(x, "final_norm") @ state["embedding.weight"].T


@every_architecture
def test_plain_state_alone_gives_the_same_function(architecture: Architecture) -> None:
    model = shaken(architecture, torch.float64).train()
    state = model.plain_state()
    assert model.training
    assert all(x.dtype is torch.float64 and not x.requires_grad for x in state.values())
    logits_BTV = model.eval()(tokens()).logits_BTV
    torch.testing.assert_close(plain_forward(state, architecture, tokens()), logits_BTV, rtol=1e-9, atol=1e-9)
    state["embedding.weight"].zero_()
    assert torch.equal(model(tokens()).logits_BTV, logits_BTV), "plain_state must hand out copies"


def test_fused_ffn_equals_scaled_ffn_with_its_product() -> None:
    two, one = shaken(parse("SM+ScFFN"), torch.float64), shaken(parse("SM+ScFuFFN"), torch.float64)
    state = {name: x for name, x in two.state_dict().items() if name in one.state_dict()}
    for i in range(SHAPE.layers):
        ffn: Any = two.get_submodule(f"blocks.{i}.feed_forward")
        state[f"blocks.{i}.feed_forward.fused.weight"] = ffn.contract.weight @ ffn.expand.weight
        state[f"blocks.{i}.feed_forward.fused.bias"] = ffn.contract.weight @ ffn.expand.bias + ffn.contract.bias
    one.load_state_dict(state)
    torch.testing.assert_close(one(tokens()).logits_BTV, two(tokens()).logits_BTV)


@pytest.mark.parametrize("name", ["SM+SNorm(QKVO+FFN)", "SM+WNorm(QKVO+FFN)"])
def test_static_norm_acts_on_the_named_layers(name: str) -> None:
    model = shaken(parse(name))
    model.train()
    for _ in range(200):
        model(tokens())  # power iterations
    state = model.plain_state()
    for layer in ("attention.query", "attention.output", "feed_forward.expand", "feed_forward.contract"):
        weight = state[f"blocks.0.{layer}.weight"]
        module: Any = model.get_submodule(f"blocks.0.{layer}")
        if "SNorm" in name:
            assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-3)
        else:
            gain = module.parametrizations.weight.original0
            torch.testing.assert_close(weight.norm(dim=1), gain.abs().flatten().double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", ["QK", "FFN", "QK+FFN", "QKV+FFN", "QKVO+FFN"])
@pytest.mark.parametrize("ffn", ["", "+B"])
def test_static_norm_leaves_the_other_layers_alone(layers: str, ffn: str) -> None:
    model = LanguageModel(parse(f"SM+WNorm({layers}){ffn}"), SHAPE)
    parametrised = {
        name.removeprefix("blocks.0.") for name, m in model.named_modules() if hasattr(m, "parametrizations") and "s.0." in name
    }
    letters = {"Q": "query", "K": "key", "V": "value", "O": "output"}
    expected = {f"attention.{letters[c]}" for c in layers.split("+")[0] if layers != "FFN"}
    expected |= {"feed_forward.expand", "feed_forward.contract"} if "FFN" in layers else set()
    expected |= {"feed_forward.gate"} if "FFN" in layers and ffn else set()
    assert parametrised == expected


def test_weight_norm_starts_as_the_plain_model() -> None:
    plain, normed = (LanguageModel(parse(name), SHAPE, seed=4) for name in ("SM", "SM+WNorm(QKVO+FFN)"))
    torch.testing.assert_close(plain(tokens()).logits_BTV, normed(tokens()).logits_BTV, rtol=1e-5, atol=1e-6)


def test_temperature_sharpens_and_comes_back_from_below_its_floor() -> None:
    model = LanguageModel(parse("SM(th)+ScFuFFN"), SHAPE, initial_temperature=0.5)
    temperature = model.get_parameter("blocks.0.attention.temperature")
    assert torch.equal(temperature, torch.full((2,), 0.5))
    with torch.no_grad():
        temperature.copy_(torch.tensor([-0.3, -1e6]))
    in_use = model.plain_state()["blocks.0.attention.temperature"]
    torch.testing.assert_close(in_use.float(), torch.full((2,), MINIMUM_TEMPERATURE), rtol=0, atol=0)
    output = model(tokens(), with_entropy=True)
    assert bool(output.logits_BTV.isfinite().all())
    assert output.entropy_nats_LBHT is not None
    output.entropy_nats_LBHT[0].mean().backward()
    assert temperature.grad is not None
    assert bool((temperature.grad > 0).all()), "more temperature is more entropy, and the floor must not hide it"


def test_entropies_are_those_of_the_models_own_attention() -> None:
    model = shaken(parse("SM(t)+ScFuFFN"), torch.float64)
    assert model.positions is not None
    x = model.embedding(tokens()) + model.positions.weight
    attention: Any = model.get_submodule("blocks.0.attention")
    q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (attention.query, attention.key, attention.value))
    _, expected = entropy_attention(q, k, v, temperature=attention.temperature, kernel="reference")
    torch.testing.assert_close(model(tokens(), with_entropy=True).entropy_nats_LBHT[0], expected)


def test_initial_spread_follows_the_table() -> None:
    shape = ModelShape(layers=3, heads=4, width=192, context=64, vocabulary=500)
    s = 0.02 * 2.0  # sqrt(768 / 192) = 2
    for name in ("SM+LN+G", "SM(t)+ScFuFFN"):
        for key, x in LanguageModel(parse(name), shape, initial_temperature=0.3).state_dict().items():
            if key.endswith("bias"):
                assert float(x.abs().max()) == 0
            elif key.endswith(("output.weight", "contract.weight", "fused.weight")):
                assert float(x.std()) == pytest.approx(s / math.sqrt(6), rel=0.03)
            elif x.ndim == 2 and "temperature" not in key:
                assert float(x.std()) == pytest.approx(s, rel=0.03)
            else:
                assert float(x.min()) == float(x.max()) == pytest.approx(0.3 if "temperature" in key else 1.0)


def test_an_untied_head_is_a_matrix_of_its_own() -> None:
    tied, untied = (LanguageModel(parse("NeoX(SM+LN+G)"), dataclasses.replace(SHAPE, tied_head=flag)) for flag in (True, False))
    assert set(untied.plain_state()) - set(tied.plain_state()) == {"head.weight"}
    assert untied.head is not None
    with torch.no_grad():
        untied.head.weight.copy_(untied.embedding.weight)
        tied.load_state_dict({name: x for name, x in untied.state_dict().items() if name != "head.weight"})
        torch.testing.assert_close(untied(tokens()).logits_BTV, tied(tokens()).logits_BTV)
        untied.head.weight.mul_(2)
        torch.testing.assert_close(untied(tokens()).logits_BTV, 2 * tied(tokens()).logits_BTV)


def test_rotary_scores_depend_on_distance_alone() -> None:
    shape = dataclasses.replace(SHAPE, rotary_share=1.0)
    model = LanguageModel(parse("NeoX(SM+R)"), shape, seed=3).double()
    batch = tokens()[:, :1].expand(-1, 12)  # one token everywhere: nothing but positions tells the rows apart
    first = model(batch, with_entropy=True)
    attention: Any = model.get_submodule("blocks.0.attention")
    x = model.embedding(batch)
    q, k = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (attention.query, attention.key))
    cos, sin = rotary_tables(0, 12, 4, 10_000.0, q)
    s = rotate(q, cos, sin) @ rotate(k, cos, sin).mT
    for distance in range(-11, 12):
        diagonal = s.diagonal(distance, -2, -1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal))
    assert not torch.allclose(s[..., 0, 0], s[..., 5, 0])
    assert bool(first.entropy_nats_LBHT.isfinite().all())


def test_heads_too_narrow_to_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs of entries"):
        LanguageModel(parse("NeoX(SM)"), dataclasses.replace(SHAPE, heads=8))


def test_shorter_sequences_and_bfloat16_run() -> None:
    model = shaken(parse("NeoX(SM(t)+ScFuFFN)"))
    torch.testing.assert_close(model(tokens()[:, :5]).logits_BTV, model(tokens()).logits_BTV[:, :5], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(model(tokens()).logits_BTV.isfinite().all())
    model = shaken(parse("SM(t)+ScFuFFN"))
    torch.testing.assert_close(model(tokens()[:, :5]).logits_BTV, model(tokens()).logits_BTV[:, :5], rtol=1e-4, atol=1e-5)
    logits_BTV = model.to(torch.bfloat16)(tokens()).logits_BTV
    assert logits_BTV.dtype is torch.bfloat16
    assert bool(logits_BTV.isfinite().all())


def test_mistakes_are_told_in_a_sentence() -> None:
    model = LanguageModel(parse("SM"), SHAPE)
    with pytest.raises(ValueError, match="1 to 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="1 to 12"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="context of 12"):
        model.greedy([1] * 10, 3)
    with pytest.raises(ValueError, match="at least one prompt token"):
        model.greedy([], 3)
    with pytest.raises(ValueError, match="outside 0 to 18"):
        model.greedy([19], 3)
    with pytest.raises(ValueError, match="only 6 layers"):
        LanguageModel(parse("SM+ScFuFFN(7 deepest FFNs removed)"), SHAPE)
    with pytest.raises(ValueError, match="positive"):
        LanguageModel(parse("SM(t)+ScFuFFN"), SHAPE, initial_temperature=0)


GROUPED = dataclasses.replace(
    SHAPE, heads=4, key_value_heads=2, explicit_ffn_width=13, rotary_share=1.0, norm_epsilon=1e-3, tied_head=False
)


@pytest.mark.parametrize("name", ["Llama(SM+RMS+Swi)", "Llama(SM2(t)+RMS+SwiQ)", "NeoX(SM+LN+G)", "SM(th)+LN+R"])
def test_grouped_heads_are_the_model_whose_keys_and_values_are_repeated(name: str) -> None:
    grouped = LanguageModel(parse(name), GROUPED, seed=1).double()
    whole = LanguageModel(parse(name), dataclasses.replace(GROUPED, key_value_heads=None), seed=2).double()
    state = dict(grouped.state_dict())
    for key, x in state.items():
        if ".attention.key." in key or ".attention.value." in key:
            state[key] = x.unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1)
    whole.load_state_dict(state)
    first, second = (model(tokens(), with_entropy=True) for model in (grouped, whole))
    torch.testing.assert_close(first.logits_BTV, second.logits_BTV)
    torch.testing.assert_close(first.entropy_nats_LBHT, second.entropy_nats_LBHT)


def test_biases_of_queries_keys_and_values_are_a_size() -> None:
    state = LanguageModel(parse("Llama(SM+RMS+Swi)"), dataclasses.replace(GROUPED, qkv_bias=True)).state_dict()
    biases = {name for name in state if name.endswith("bias")}
    assert biases == {f"blocks.{i}.attention.{part}.bias" for i in range(SHAPE.layers) for part in ("query", "key", "value")}


@pytest.mark.parametrize("name", ["Llama(SM+RMS+Swi)", "NeoX(SM+LN+G)"])
def test_a_prefix_made_of_a_first_token_is_that_token(name: str) -> None:
    """What a first token leaves in the caches, as a prefix: the rest of the text has the logits that it has after that token."""
    plain = LanguageModel(parse(name), GROUPED, seed=1).double()
    caches = [KeyValueCache() for _ in range(GROUPED.layers)]
    plain(torch.tensor([[5]]), caches=caches)
    prefixed = LanguageModel(parse(name), dataclasses.replace(GROUPED, prefix=1, context=11), seed=2).double()
    state = dict(plain.state_dict())
    for i, cache in enumerate(caches):
        assert cache.k_BGSE is not None
        assert cache.v_BGSE is not None
        state |= {f"blocks.{i}.attention.prefix_key": cache.k_BGSE[0], f"blocks.{i}.attention.prefix_value": cache.v_BGSE[0]}
    prefixed.load_state_dict(state)
    batch = torch.cat([torch.full((3, 1), 5), tokens()[:, :11]], dim=1)
    expected = plain(batch).logits_BTV[:, 1:]
    torch.testing.assert_close(prefixed(batch[:, 1:]).logits_BTV, expected)
    caches = [KeyValueCache() for _ in range(GROUPED.layers)]
    pieces = [prefixed(piece, caches=caches).logits_BTV for piece in batch[:, 1:].split([4, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)
    with pytest.raises(ValueError, match="needs rotary positions"):
        LanguageModel(parse("SM+LN+G"), dataclasses.replace(GROUPED, prefix=1))
