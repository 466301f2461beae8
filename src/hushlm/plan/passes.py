"""The private computation of an architecture, as a list of steps with shapes: one plan for a prompt, one for each further token.

Legend: `rows` are the query tokens that this pass computes; `keys` are the tokens that they attend to, which are the rows and the tokens
in the key-value cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from hushlm.architectures import Architecture, FeedForward, Norm, Temperature
from hushlm.config import ModelShape
from hushlm.plan.attention_operations import (
    LARGEST_POWER_SUM,
    SMALLEST_POWER_SUM,
    Divide,
    Kernel,
    Mix,
    PowerKernel,
    Prepend,
    Rotate,
    Scores,
)
from hushlm.plan.cuts import few_squares, product_cut, scaling_block, squares_block
from hushlm.plan.operations import (
    Activate,
    ActivatedGate,
    Embed,
    Gate,
    Normalise,
    Operation,
    Project,
    Reveal,
    RmsNormalise,
    ScaleRows,
    Step,
)
from hushlm.plan.rewrites import HUSH, Rewrites
from hushlm.plan.step_names import StepName

__all__ = ["LENGTH_BUCKET", "Plan", "bucket_length", "decode_plan", "exponential_squarings", "prefill_plan", "whole_buckets"]

LENGTH_BUCKET = 32
"""A session rounds lengths up to a multiple of this, so that programs are compiled once for each bucket and not for each token."""


@dataclass(frozen=True)
class Plan:
    """One forward pass.

    Attributes:
        architecture, shape: what the model is and how large it is.
        rewrites: how the program is written.
        rows: how many new tokens the pass computes.
        keys: how many positions are attended to, including the new tokens and the prefix.
        steps: the steps of the pass, in order.
        further: whether the rows are further tokens of an answer, whose predecessors are in the cache.
    """

    architecture: Architecture
    shape: ModelShape
    rewrites: Rewrites
    rows: int
    keys: int
    steps: tuple[Step, ...]
    further: bool = False


def whole_buckets(tokens: int) -> int:
    """`tokens` rounded up to a multiple of `LENGTH_BUCKET`."""
    return -(-tokens // LENGTH_BUCKET) * LENGTH_BUCKET


def bucket_length(tokens: int, context: int) -> int:
    """The length at which a session runs `tokens` tokens: `whole_buckets` of them, but at most the context."""
    return min(whole_buckets(tokens), context)


def _normalise(architecture: Architecture, shape: ModelShape, rewrites: Rewrites, rows: int) -> Normalise | RmsNormalise:
    width, matrices, affine = shape.width, rewrites.row_products == "matrices", not rewrites.fold_affine
    squares, scaling = (squares_block(rows, width), scaling_block(rows, width)) if matrices else (0, 0)
    if architecture.norm is Norm.RMS:
        return RmsNormalise(rows, width, affine, shape.norm_epsilon, squares, scaling)
    return Normalise(rows, width, affine, squares, scaling)


def _kernel(rewrites: Rewrites, architecture: Architecture, shape: ModelShape, queries: int, keys: int) -> Kernel | PowerKernel:
    heads, squarings = shape.heads, architecture.squarings
    triangle, exponentials = rewrites.triangle and queries + shape.prefix == keys, squarings // exponential_squarings(architecture)
    kernel: Kernel | PowerKernel
    if architecture.power:
        kernel = PowerKernel(heads, queries, keys, squarings, triangle, written_out=0, exponentials=exponentials)
    else:
        bounded = architecture.kernel_order is not None
        kernel = Kernel(heads, queries, keys, squarings, bounded, triangle, written_out=0, exponentials=exponentials)
    scores = kernel.elements
    return replace(kernel, written_out=scores if rewrites.exponential == "written-out" else few_squares(scores))


def _divide(rewrites: Rewrites, architecture: Architecture, heads: int, rows: int, width: int, keys: int) -> Divide:
    block = scaling_block(heads * rows, width) if rewrites.row_products == "matrices" else 0
    smallest, largest = (SMALLEST_POWER_SUM, LARGEST_POWER_SUM) if architecture.power else (1.0, keys)
    return Divide(heads, rows, width, largest, rewrites.reciprocal == "polynomial", block, smallest)


def _project(rewrites: Rewrites, rows: int, inner: int, outer: int) -> Project:
    return Project(rows, inner, outer, product_cut(rows, inner, outer, rewrites.encoded_bytes))


def exponential_squarings(architecture: Architecture) -> int:
    """The number n of the engine's exponential (1 + z/2^n)^(2^n), which is a setting of the engine.

    It is the n of the attention kernel, so that the kernel is one call of the exponential. Where the activation of the feed-forward
    networks needs single squares, it is 1.
    """
    squares = (
        FeedForward.GELU,
        FeedForward.SQUARED_RELU,
        FeedForward.POLYNOMIAL,
        FeedForward.QUADRATIC,
        FeedForward.SWIGLU,
        FeedForward.SWIGLU_QUADRATIC,
    )
    return 1 if architecture.feed_forward in squares else architecture.squarings


def prefill_plan(
    architecture: Architecture, shape: ModelShape, tokens: int, reveal: Reveal | None = None, rewrites: Rewrites = HUSH
) -> Plan:
    """The pass over a prompt of `tokens` tokens, padding included, that predicts the next one.

    Args:
        architecture, shape: what the model is and how large it is.
        tokens: how many tokens the pass computes.
        reveal: what the client learns at the end; the next token by default. The head computes the logits that it is about, which may be
            fewer than the vocabulary has.
        rewrites: how the program is written.

    Raises:
        ValueError: if `tokens` is not between 1 and the context, or more logits are asked for than there are.
    """
    _check_length(tokens, shape)
    return _plan(architecture, shape, tokens, None, reveal, rewrites)


def decode_plan(
    architecture: Architecture, shape: ModelShape, keys: int, reveal: Reveal | None = None, rewrites: Rewrites = HUSH, rows: int = 1
) -> Plan:
    """The pass over further tokens, with up to `keys` - `rows` tokens in the key-value cache; arguments as for `prefill_plan`.

    Args:
        rows: how many further tokens. Each attends to itself and those before it; after each of them a next token is predicted.

    Raises:
        ValueError: if `keys` is not between `rows` and the context, or more than one row is to reveal the largest logits alone.
    """
    _check_length(keys, shape)
    if not 1 <= rows <= keys:
        raise ValueError(f"{rows} rows do not fit {keys} keys: give between 1 and {keys}.")
    reveal = replace(reveal or Reveal(shape.vocabulary, "token"), rows=rows)
    if rows > 1 and reveal.kind == "topk":
        raise ValueError("The largest logits are revealed of one row at a time: reveal the token or all logits of several rows.")
    return _plan(architecture, shape, rows, keys, reveal, rewrites)


def _check_length(tokens: int, shape: ModelShape) -> None:
    if not 1 <= tokens <= shape.context:
        raise ValueError(f"{tokens} tokens do not fit a context of {shape.context}: give between 1 and {shape.context}.")


def _plan(architecture: Architecture, shape: ModelShape, rows: int, cached: int | None, reveal: Reveal | None, rewrites: Rewrites) -> Plan:
    """The plan over `rows` new tokens, with `cached` tokens and the prefix in the key-value cache; None makes the cache."""
    reveal = reveal or Reveal(shape.vocabulary, "token")
    if not 1 <= reveal.vocabulary <= shape.vocabulary:
        raise ValueError(f"{reveal.vocabulary} logits cannot be computed: this model has {shape.vocabulary}.")
    further = cached is not None
    last_row_only = rewrites.last_row_only and not further
    width, vocabulary = shape.width, shape.vocabulary
    keys = shape.prefix + (rows if cached is None else cached)
    steps = [Step(StepName.EMBEDDING, None, Embed(rows, vocabulary, width, product_cut(rows, vocabulary, width, rewrites.encoded_bytes)))]
    for layer in range(shape.layers):
        queries = 1 if last_row_only and layer == shape.layers - 1 else rows
        ffn = _ffn_steps(architecture, shape, rewrites, layer, queries)
        # In NeoX blocks the FFN reads what attention reads, so it comes before attention writes.
        beside, after = (ffn, []) if architecture.is_parallel else ([], ffn)
        steps += _attention_steps(architecture, shape, rewrites, layer, rows, keys, queries, cached is None, beside)
        steps += after
    last = 1 if last_row_only else rows
    if architecture.has_final_norm:
        steps.append(Step(StepName.FINAL_NORM, None, _normalise(architecture, shape, rewrites, last)))
    steps.append(Step(StepName.HEAD, None, _project(rewrites, last, width, reveal.vocabulary)))
    steps.append(Step(StepName.REVEAL, None, reveal))
    return Plan(architecture, shape, rewrites, rows, keys, tuple(steps), further)


def _attention_steps(
    architecture: Architecture,
    shape: ModelShape,
    rewrites: Rewrites,
    layer: int,
    rows: int,
    keys: int,
    queries: int,
    fills_cache: bool,
    beside: list[Step],
) -> list[Step]:
    """The attention of one block, for `queries` of its rows.

    The first pass `fills_cache`, where a prefix comes first. The steps `beside` it come right after those that read the stream for
    attention.
    """
    heads, width, head_width = shape.heads, shape.width, shape.head_width
    joined = rewrites.one_product_decode and queries == 1
    named: list[tuple[StepName, Operation]] = []
    if architecture.has_block_norm:
        named.append((StepName.NORM_ATTENTION, _normalise(architecture, shape, rewrites, rows)))
    if queries == rows:
        named.append((StepName.QUERY_KEY_VALUE, _project(rewrites, rows, width, width + 2 * shape.key_width)))
    else:
        named += [
            (StepName.QUERY, _project(rewrites, queries, width, width)),
            (StepName.KEY_VALUE, _project(rewrites, rows, width, 2 * shape.key_width)),
        ]
    reads = len(named)
    key_heads, groups = shape.cache_heads, heads // shape.cache_heads
    if architecture.is_rotary:
        named.append((StepName.ROTARY, Rotate(heads, queries, rows, shape.rotary_width, key_heads if groups > 1 else None)))
    if shape.prefix and fills_cache:
        named.append((StepName.PREFIX, Prepend(key_heads, shape.prefix, rows, head_width)))
    if architecture.temperature is Temperature.PER_HEAD_AND_POSITION:
        named.append((StepName.TEMPERATURE, ScaleRows(queries, width)))
    divide = (StepName.DIVIDE, _divide(rewrites, architecture, heads, queries, head_width if rewrites.divide_late else keys, keys))
    mix = (StepName.MIX, Mix(key_heads, groups * queries, keys, head_width, joined, groups))
    named += [
        (StepName.SCORES, Scores(key_heads, groups * queries, keys, head_width, joined, groups)),
        (StepName.KERNEL, _kernel(rewrites, architecture, shape, queries, keys)),
    ]
    named += [mix, divide] if rewrites.divide_late else [divide, mix]
    named.append((StepName.ATTENTION_OUTPUT, _project(rewrites, queries, width, width)))
    steps = [Step(name, layer, operation) for name, operation in named]
    return [*steps[:reads], *beside, *steps[reads:]]


def _ffn_steps(architecture: Architecture, shape: ModelShape, rewrites: Rewrites, layer: int, rows: int) -> list[Step]:
    if not architecture.has_ffn(layer, shape.layers):
        return []
    width, hidden = shape.width, shape.ffn_width
    named: list[tuple[StepName, Operation]] = []
    # Side by side, both norms normalise the same stream; they differ only in gain and bias, which are folded into the next map.
    if architecture.has_block_norm and not (architecture.is_parallel and rewrites.fold_affine):
        named.append((StepName.NORM_FFN, _normalise(architecture, shape, rewrites, rows)))
    expand = (StepName.FFN_EXPAND, _project(rewrites, rows, width, hidden))
    contract = (StepName.FFN_CONTRACT, _project(rewrites, rows, hidden, width))
    match architecture.feed_forward:
        case FeedForward.IDENTITY | FeedForward.SCALED | FeedForward.SCALED_FUSED:
            if rewrites.absorb_ffns and not architecture.has_block_norm and layer not in rewrites.explicit_ffns:
                return []
            if rewrites.absorb_ffns or architecture.feed_forward is FeedForward.SCALED_FUSED:
                # There is nothing nonlinear inside, so that it is one D x D product.
                named.append((StepName.FFN, _project(rewrites, rows, width, width)))
            else:
                named += [expand, contract]
        case FeedForward.BILINEAR | FeedForward.SWIGLU | FeedForward.SWIGLU_QUADRATIC:
            # Both maps read the same rows, which one product sends only once.
            both = (StepName.FFN_EXPAND, _project(rewrites, rows, width, 2 * hidden))
            named += [both, (StepName.FFN_ACTIVATION, _gate(architecture.feed_forward, rewrites, rows, hidden)), contract]
        case _:
            named += [expand, (StepName.FFN_ACTIVATION, _activate(architecture.feed_forward, rewrites, rows, hidden)), contract]
    return [Step(name, layer, operation) for name, operation in named]


def _gate(
    kind: Literal[FeedForward.BILINEAR, FeedForward.SWIGLU, FeedForward.SWIGLU_QUADRATIC], rewrites: Rewrites, rows: int, hidden: int
) -> Gate | ActivatedGate:
    built_in_squares = rewrites.exponential == "built-in" and not few_squares(rows * hidden)
    match kind:
        case FeedForward.BILINEAR:
            return Gate(rows, hidden)
        case FeedForward.SWIGLU:
            # GELU and SiLU are written alike.
            tanh = rewrites.gelu == "tanh"
            return ActivatedGate(rows, hidden, "silu-tanh" if tanh else "silu-quartic", built_in_squares and not tanh)
        case FeedForward.SWIGLU_QUADRATIC:
            return ActivatedGate(rows, hidden, "silu-quadratic", built_in_squares)
        case _:
            assert_never(kind)


def _activate(
    kind: Literal[FeedForward.GELU, FeedForward.RELU, FeedForward.SQUARED_RELU, FeedForward.POLYNOMIAL, FeedForward.QUADRATIC],
    rewrites: Rewrites,
    rows: int,
    hidden: int,
) -> Activate:
    built_in_squares = rewrites.exponential == "built-in" and not few_squares(rows * hidden)
    match kind:
        case FeedForward.GELU:
            return Activate(rows, hidden, "gelu-tanh" if rewrites.gelu == "tanh" else "gelu-quartic", built_in_squares)
        case FeedForward.RELU:
            return Activate(rows, hidden, "relu", False)
        case FeedForward.SQUARED_RELU:
            return Activate(rows, hidden, "squared-relu", built_in_squares)
        case FeedForward.POLYNOMIAL:
            return Activate(rows, hidden, "polynomial", built_in_squares)
        case FeedForward.QUADRATIC:
            return Activate(rows, hidden, "square", built_in_squares)
        case _:
            assert_never(kind)
