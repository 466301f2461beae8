"""The decoder-only language model of an `Architecture`.

Legend: B batch, T tokens, H heads, D width, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.model.block import Block
from hushlm.model.normalisation import final_norm
from hushlm.model.self_attention import Attention, KeyValueCache, unit_gain

__all__ = ["LanguageModel", "ModelOutput"]

_REFERENCE_WIDTH = 768
_RESIDUAL_PROJECTIONS = ("attention.output.weight", "feed_forward.contract.weight", "feed_forward.fused.weight")


class ModelOutput(NamedTuple):
    """What a forward pass returns.

    Attributes:
        logits_BTV: the logits of the next token, at every position.
        entropy_nats_LBHT: entropy of every attention row, differentiable; None unless asked for.
        score_excess: of a power kernel in training, the sum over layers of what its scores can have beyond the limit
            (`hushlm.model.score_bound`), differentiable; else None.
    """

    logits_BTV: Tensor
    entropy_nats_LBHT: Tensor | None
    score_excess: Tensor | None = None


class LanguageModel(nn.Module):
    """Token embeddings, learned positions (GPT-2 blocks; the others have rotary ones), L blocks, a final LayerNorm or RMSNorm
    where the architecture has one, and a head: the embedding's table, or a matrix of its own.

    Initialisation, with s = init_std sqrt(768 / D), so that init_std = 0.02 is GPT-2's at its own width:

    | parameter | value |
    |---|---|
    | embedding, positions, head, query, key, value, expand, gate | normal, std s |
    | attention.output, contract, fused (what writes to the stream) | normal, std residual_init s / sqrt(2L) |
    | biases | 0 |
    | LayerNorm and RMSNorm weight, LayerNorm bias | 1, 0 |
    | keys and values of the prefix | 0 |
    | curve of SwiQ | `DEFAULT_CURVE`, a fit to SiLU |
    | alpha, beta | 1 |
    | temperature | initial_temperature |

    The std of W_out W_in at this initialisation is 2 sqrt(D) s^2 / sqrt(2L) = 1.1 s / sqrt(2L), hence that of `fused`.

    Args:
        architecture: which nonlinearities; `entropy_regularised` changes nothing here.
        shape: the sizes of the model.
        initial_temperature: t at the start, > 0; used only where the architecture has a temperature.
        init_std: the standard deviation of the weights, see the table.
        residual_init: a factor on what writes to the stream, see the table; 0 makes every block the identity (ScFFN, ScFuFFN: as
                alpha and beta are 1).
        seed: decides the weights. The global random state is left alone.

    Raises:
        ValueError: if the architecture removes more FFNs than there are layers, the temperature or std is not positive, a matrix to
            be zero is to be normalised too, or a prefix is asked for without rotary positions.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: ModelShape,
        *,
        initial_temperature: float = 1.0,
        init_std: float = 0.02,
        residual_init: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not initial_temperature > 0 or not init_std > 0:
            raise ValueError(f"The initial temperature and std must be positive, but are {initial_temperature} and {init_std}.")
        if residual_init == 0 and any(part in architecture.norm_layers for part in ("O", "FFN")):
            raise ValueError(f"{architecture} divides by the norm of matrices that residual_init = 0 makes zero: use a small one instead.")
        if shape.prefix and not architecture.is_rotary:
            raise ValueError(f"{architecture} has a position of its own for every token: a prefix needs rotary positions.")
        self.architecture = architecture
        self.shape = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(shape.vocabulary, shape.width)
            self.positions = None if architecture.is_rotary else nn.Embedding(shape.context, shape.width)
            self.blocks = nn.ModuleList(Block(architecture, shape, layer, initial_temperature) for layer in range(shape.layers))
            self.final_norm = final_norm(architecture, shape)
            self.head = None if shape.tied_head else nn.Linear(shape.width, shape.vocabulary, bias=False)
            self._initialise(init_std * math.sqrt(_REFERENCE_WIDTH / shape.width), residual_init)
            for block in self.blocks:
                assert isinstance(block, Block)
                block.normalise_weights(architecture)

    def _initialise(self, std: float, residual: float) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith(_RESIDUAL_PROJECTIONS):
                nn.init.normal_(parameter, std=residual * (std / math.sqrt(2 * self.shape.layers)))
            elif parameter.ndim == 2 and not name.endswith("temperature"):
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens_BT: Tensor, with_entropy: bool = False, *, caches: list[KeyValueCache] | None = None) -> ModelOutput:
        """Logits of the next token at every position, and on request the attention entropies. The logits don't depend on the request.

        Args:
            tokens_BT: integer token ids, each below V; T at most the context.
            with_entropy: also return the row entropies, L x B x H x T numbers.
            caches: one per layer; the tokens then follow those seen before, and the caches grow by T.

        Raises:
            ValueError: if the sequence is empty or longer than the context.
        """
        past = caches[0].positions if caches else 0
        last = past + tokens_BT.shape[-1]
        if tokens_BT.ndim != 2 or not past < last <= self.shape.context:
            raise ValueError(
                f"The model reads (batch, 1 to {self.shape.context}) tokens, but got {tuple(tokens_BT.shape)} after {past} tokens."
            )
        x_BTD = self.embedding(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight[past:last]
        entropies = []
        for layer, block in enumerate(self.blocks):
            x_BTD, entropy_nats_BHT = block(x_BTD, caches[layer] if caches else None)
            if with_entropy:
                entropies.append(entropy_nats_BHT)
        logits_BTV = functional.linear(self.final_norm(x_BTD), self.embedding.weight if self.head is None else self.head.weight)
        return ModelOutput(logits_BTV, torch.stack(entropies) if with_entropy else None, self._score_excess())

    def _score_excess(self) -> Tensor | None:
        """The sum over layers, taken from them: a model that is copied must not hold a part of a graph."""
        found = []
        for module in self.modules():
            if isinstance(module, Attention) and module.score_excess is not None:
                found.append(module.score_excess)
                module.score_excess = None
        return torch.stack(found).sum() if found else None

    @torch.no_grad()
    def greedy(self, tokens: list[int], new_tokens: int) -> list[int]:
        """The `new_tokens` most likely continuation, one token at a time (ties: the lowest id), without the prompt.

        Raises:
            ValueError: if the prompt is empty, has an unknown token, or does not fit the context together with the answer.
        """
        if not tokens or new_tokens < 0 or len(tokens) + new_tokens > self.shape.context:
            raise ValueError(
                f"A prompt of {len(tokens)} tokens and an answer of {new_tokens} must hold at least one prompt token and fit the "
                f"context of {self.shape.context}: shorten one of them."
            )
        if not all(0 <= token < self.shape.vocabulary for token in tokens):
            raise ValueError(f"The prompt has a token outside 0 to {self.shape.vocabulary - 1}: was it made by another tokenizer?")
        caches = [KeyValueCache() for _ in self.blocks]
        answer: list[int] = []
        unseen = tokens
        was_training = self.training
        self.eval()
        try:
            while len(answer) < new_tokens:
                logits_V = self(torch.tensor([unseen], device=self.embedding.weight.device), caches=caches).logits_BTV[0, -1]
                unseen = [int(logits_V.argmax())]
                answer += unseen
        finally:
            self.train(was_training)
        return answer

    @torch.no_grad()
    def plain_state(self) -> dict[str, Tensor]:
        """float64 copies, on the CPU, of the tensors that the forward pass uses in evaluation.

        Names are those of `state_dict`, with two differences: WNorm, SNorm and query-key normalisation are multiplied out into plain
        `weight`s and `bias`es, and `temperature` is the one in use, never below its floor. A tied head is `embedding.weight`.
        """
        was_training = self.training
        self.eval()  # SNorm in training mode would move its buffers
        try:
            state: dict[str, Tensor] = {}
            for name, module in self.named_modules():
                if "parametrizations" in name.split("."):
                    continue
                tensors = dict(module.named_parameters(recurse=False))
                if hasattr(module, "parametrizations"):
                    tensors["weight"] = module.weight
                if isinstance(module, Attention) and (temperature := module.effective_temperature()) is not None:
                    tensors["temperature"] = temperature
                state |= {f"{name}.{key}": tensor.detach().to("cpu", torch.float64, copy=True) for key, tensor in tensors.items()}
            if self.architecture.query_key_norm:
                for name in (f"blocks.{layer}.attention.{part}" for layer in range(self.shape.layers) for part in ("query", "key")):
                    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
                    gain = unit_gain(weight, bias, self.shape.head_width).repeat_interleave(self.shape.head_width)
                    weight *= gain[:, None]
                    if bias is not None:
                        bias *= gain
            return state
        finally:
            self.train(was_training)
