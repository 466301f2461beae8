"""Names of the steps of a pass, of the values that pass between them, and of the server's tensors that they use.

All three are strings as well, because they appear in events, reports and result files. `hushlm.plan.wiring` says what every step reads
and writes.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import assert_never

__all__ = ["STREAMS", "ModelPart", "StepName", "Tensor", "Value", "tensor_name"]


class ModelPart(Enum):
    """The part of a model that a step belongs to."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    FEED_FORWARD = "feed-forward network"
    FINAL_NORM = "final normalisation"
    HEAD = "head"
    ANSWER = "answer"


class StepName(StrEnum):
    """What a step of a plan computes. A name occurs at most once in a layer."""

    EMBEDDING = "embedding"
    NORM_ATTENTION = "norm_attention"
    QUERY_KEY_VALUE = "query_key_value"
    QUERY = "query"
    """In the last layer of a pass over a prompt the query is asked for one row only, so that it is a product of its own."""
    KEY_VALUE = "key_value"
    ROTARY = "rotary"
    PREFIX = "prefix"
    """Keys and values of the prefix are put before those of the prompt."""
    TEMPERATURE = "temperature"
    SCORES = "scores"
    KERNEL = "kernel"
    MIX = "mix"
    DIVIDE = "divide"
    ATTENTION_OUTPUT = "attention_output"
    NORM_FFN = "norm_ffn"
    FFN = "ffn"
    """A linear feed-forward network as one product."""
    FFN_EXPAND = "ffn_expand"
    FFN_ACTIVATION = "ffn_activation"
    FFN_CONTRACT = "ffn_contract"
    FINAL_NORM = "final_norm"
    HEAD = "head"
    REVEAL = "reveal"

    def __repr__(self) -> str:
        # The repr of the plain string, because the keys of results/gpt2-private-counts.json and messages contain it.
        return repr(self.value)

    @property
    def part(self) -> ModelPart:
        """The part of the model that the step belongs to."""
        match self:
            case StepName.EMBEDDING:
                return ModelPart.EMBEDDING
            case (
                StepName.NORM_ATTENTION
                | StepName.QUERY_KEY_VALUE
                | StepName.QUERY
                | StepName.KEY_VALUE
                | StepName.ROTARY
                | StepName.PREFIX
                | StepName.TEMPERATURE
                | StepName.SCORES
                | StepName.KERNEL
                | StepName.MIX
                | StepName.DIVIDE
                | StepName.ATTENTION_OUTPUT
            ):
                return ModelPart.ATTENTION
            case StepName.NORM_FFN | StepName.FFN | StepName.FFN_EXPAND | StepName.FFN_ACTIVATION | StepName.FFN_CONTRACT:
                return ModelPart.FEED_FORWARD
            case StepName.FINAL_NORM:
                return ModelPart.FINAL_NORM
            case StepName.HEAD:
                return ModelPart.HEAD
            case StepName.REVEAL:
                return ModelPart.ANSWER
            case _:
                assert_never(self)

    @property
    def starts_last_row(self) -> bool:
        """Whether this step is the first that reads only the row to be predicted, although the pass has more rows."""
        return self is StepName.QUERY

    @property
    def ends_all_rows(self) -> bool:
        """Whether this step is the last that reads all rows. After it the residual stream consists of the row to be predicted alone."""
        return self is StepName.KEY_VALUE


class Value(StrEnum):
    """A value that passes from one step to the next. It is shared between the parties unless it `is_public`."""

    ONE_HOT = "one_hot"
    """The client's tokens. This is the only value that exactly one party knows."""
    STREAM = "x"
    """The residual stream."""
    NORMALISED = "h"
    """The residual stream behind a LayerNorm or an RMSNorm."""
    LAST_STREAM = "x_last"
    """The row of the stream from which the next token is predicted."""
    LAST_NORMALISED = "h_last"
    QUERIES = "q"
    KEYS = "k"
    VALUES = "v"
    SCORES = "s"
    WEIGHTS = "e"
    """The attention weights, which are not yet divided by their sums where the plan divides late."""
    SUMS = "z"
    """The row sums of the attention weights."""
    MIXED = "o"
    """The attention weights times the values."""
    HIDDEN = "f"
    """The values inside a feed-forward network."""
    LOGITS = "logits"
    ANSWER = "answer"
    ANSWER_LOGITS = "answer_logits"
    """The logits of the answer's tokens, where the largest K are revealed."""
    MASK = "mask"
    """A mask that says which keys each query may attend to."""
    ROOTS = "roots"
    """For each query the 2^n-th root of what a power kernel of order n multiplies its weights with: `POWER_SUM` over its allowed keys."""
    TURNS = "turns"
    """The factors of the rotary positions of the keys."""
    TURNS_QUERY = "turns_query"
    """The factors of the rotary positions of the queries."""

    @property
    def is_public(self) -> bool:
        """Whether both parties know the value."""
        return self in (Value.MASK, Value.ROOTS, Value.TURNS, Value.TURNS_QUERY)

    @property
    def last_row(self) -> Value:
        """The value that stands for the last row of this one of the two streams."""
        return {Value.STREAM: Value.LAST_STREAM, Value.NORMALISED: Value.LAST_NORMALISED}[self]


STREAMS = (Value.STREAM, Value.NORMALISED)
"""The values that have a row for every token and are narrowed to the last row in the last layer."""


class Tensor(StrEnum):
    """The role of one of the server's tensors in its step."""

    TABLE = "table"
    POSITIONS = "positions"
    GAIN = "gain"
    BIAS = "bias"
    WEIGHT = "weight"
    INVERSE = "inverse"
    """The inverse temperatures."""
    CURVE = "curve"
    """What a layer adds inside and after the square of its quadratic gate."""
    KEYS = "keys"
    VALUES = "values"

    @property
    def position_axis(self) -> int | None:
        """The axis with an entry for each position, if there is one: it is stored for the whole context and sliced for each pass."""
        match self:
            case Tensor.POSITIONS:
                return 0
            case Tensor.INVERSE:
                return 1
            case Tensor.TABLE | Tensor.GAIN | Tensor.BIAS | Tensor.WEIGHT | Tensor.CURVE | Tensor.KEYS | Tensor.VALUES:
                return None
            case _:
                assert_never(self)


def tensor_name(step: StepName, layer: int | None, tensor: Tensor) -> str:
    """The name of a tensor in an exported `weights.safetensors`: LAYER.STEP.TENSOR, or STEP.TENSOR outside the blocks."""
    return f"{step}.{tensor}" if layer is None else f"{layer}.{step}.{tensor}"
