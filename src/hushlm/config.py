"""Settings of a run: shapes, data, training. Validated once, where they enter; plain values everywhere else.

Any field can be set in a YAML file (`--config run.yaml`) or by a dotted option (`--training.learning_rate 1e-3`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer
from pydantic.dataclasses import dataclass

from hushlm.architectures import Architecture, parse

__all__ = ["DataConfig", "EntropyConfig", "ModelShape", "RunConfig", "TrainingConfig"]


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only model.

    Attributes:
        layers: blocks L.
        heads: attention heads H per block; must divide width.
        width: residual stream width D.
        context: longest sequence T.
        vocabulary: token ids V.
        ffn_multiple: FFN width F over D.
        tied_head: the head is the embedding's table; otherwise a matrix of its own, as in Pythia.
        rotary_share: which share of every head's entries positions rotate in NeoX and Llama blocks; the default is Pythia's.
        rotary_base: the base b of rotary positions: pair i of R rotated entries turns by b^(-2i/R) a token.
        explicit_ffn_width: FFN width F where it is no multiple of D; None takes `ffn_multiple`.
        key_value_heads: heads G of keys and values, which divide H: H / G heads of queries share one. None is H.
        norm_epsilon: what RMSNorm adds to the mean square.
        qkv_bias: whether queries, keys and values have biases in Llama blocks, as in Qwen2.
        prefix: how many positions stand before every text, with keys and values that are the model's own (`hushlm.model.self_attention`).
            For blocks with rotary positions; positions of the text start there.
    """

    layers: int = Field(default=6, ge=1, le=1000)
    heads: int = Field(default=4, ge=1, le=1000)
    width: int = Field(default=64, ge=1, le=100_000)
    context: int = Field(default=128, ge=1, le=1_000_000)
    vocabulary: int = Field(default=256, ge=2, le=10_000_000)
    ffn_multiple: int = Field(default=4, ge=1, le=64)
    tied_head: bool = True
    rotary_share: float = Field(default=0.25, gt=0, le=1)
    rotary_base: float = Field(default=10_000.0, gt=1)
    explicit_ffn_width: int | None = Field(default=None, ge=1, le=1_000_000)
    key_value_heads: int | None = Field(default=None, ge=1, le=1000)
    norm_epsilon: float = Field(default=1e-5, gt=0, le=1e-2)
    qkv_bias: bool = False
    prefix: int = Field(default=0, ge=0, le=16)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}: choose a width that is a multiple of the heads.")
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(
                f"{self.key_value_heads} heads of keys and values do not divide {self.heads} heads: every one serves as many query heads."
            )

    @model_serializer(mode="wrap")
    def _to_json(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later sizes that are at their defaults: what is written of older models, and its hash, stays what it was."""
        return {name: value for name, value in handler(self).items() if name not in _LATER_SIZES or value != _LATER_SIZES[name]}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without later sizes that are at their defaults."""
        return TypeAdapter(ModelShape).dump_python(self, mode="json")

    @property
    def head_width(self) -> int:
        """E = D / H."""
        return self.width // self.heads

    @property
    def ffn_width(self) -> int:
        """F."""
        return self.explicit_ffn_width or self.width * self.ffn_multiple

    @property
    def cache_heads(self) -> int:
        """G, the heads of keys and values."""
        return self.key_value_heads or self.heads

    @property
    def key_width(self) -> int:
        """G E, the width of all keys of a token together, and of its values."""
        return self.cache_heads * self.head_width

    @property
    def rotary_width(self) -> int:
        """R, the entries of a head that rotary positions turn: pairs, at least one.

        Raises:
            ValueError: if a head has a single entry.
        """
        if self.head_width < 2:
            raise ValueError(f"Rotary positions turn pairs of entries, but heads are {self.head_width} wide: use fewer heads.")
        return max(2, 2 * int(self.head_width * self.rotary_share / 2))

    @property
    def log_context_nats(self) -> float:
        """log T, the paper's maximum attention entropy."""
        return math.log(self.context)


_LATER_SIZES: dict[str, Any] = {"explicit_ffn_width": None, "key_value_heads": None, "norm_epsilon": 1e-5, "qkv_bias": False, "prefix": 0}
"""Sizes that models had no choice of at first, with what they were."""


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it becomes tokens.

    Attributes:
        corpus: "stdlib" (the interpreter's own standard library, without tests), "wheels" (102 MB of Python from pinned packages), "books"
            (Shakespeare), "codeparrot" (streamed from the Hugging Face hub), a folder of text files or of .parquet and .jsonl files, or
            one text file or file of rows.
        suffixes: how the names of the files end that are read from a folder; with text files and tables in one, which are meant.
        tokenizer: "bytes", "bpe:SIZE" (a byte-level BPE trained on the training split), or a `tokenizer.json`.
        validation_share: which share of the files is held out for validation, and the same again for test, chosen by a hash of each file's
            path; of a corpus with too few files, which share of the text.
        cache: folder of the token store; one sub-folder per corpus and tokenizer.
        workers: how many processes turn a large corpus into tokens; the result is the same for any number.
    """

    corpus: str = "stdlib"
    suffixes: tuple[str, ...] = (".py", ".txt", ".md")
    tokenizer: str = "bytes"
    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    cache: Path = Path("runs/data")
    workers: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class EntropyConfig:
    """The entropy regulariser (Algorithm 1 of the paper) and the temperature's start.

    Attributes:
        weight: lambda, the regulariser's weight in the loss.
        weight_end_fraction: the weight falls linearly to 0 at this fraction of the steps; None keeps it constant.
        tolerance: gamma; deviations up to gamma log T cost nothing.
        initial_threshold: theta at the start, as a share of log T, for every head.
        initial_temperature: t at the start.
        reduction: "algorithm" (a head's entropy averaged over batch and positions, then the penalty) or "listing"
            (the penalty on every row, summed over batch and positions).
    """

    weight: float = Field(default=0.1, ge=0)
    weight_end_fraction: float | None = Field(default=0.7, gt=0, le=1)
    tolerance: float = Field(default=0.2, ge=0, le=1)
    initial_threshold: float = Field(default=0.5, ge=0, le=1)
    initial_temperature: float = Field(default=0.5, gt=0)
    reduction: Literal["algorithm", "listing"] = "algorithm"


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation.

    Attributes:
        steps: how many updates are made.
        batch: how many sequences an update learns from.
        learning_rate: peak of a linear warm-up and cosine decay to `final_learning_rate_fraction`.
        warmup_steps: how many updates the warm-up lasts.
        final_learning_rate_fraction: learning rate at the last step over its peak.
        optimiser: "adamw", or "muon" for the blocks' matrices with AdamW for everything else; its updates have the size of AdamW's, so
            that learning rate and weight decay mean the same.
        weight_decay: decoupled, on matrices only.
        betas: the decay rates of AdamW's two moving averages.
        clip_norm: gradient norm above which the gradient is scaled down; None switches clipping off.
        init_std: standard deviation of the weights at width 64 and above scales as sqrt(768 / D) * init_std.
        residual_init: factor on the standard deviation of what writes to the stream (attention.output, contract, fused); 0 starts every
            block as the identity.
        score_penalty: of a power kernel, the weight in the loss of what queries and keys have beyond the scores that a private program
            can hold (`hushlm.model.score_bound`); 0 for none.
        seed: decides the weights and the order of the data.
        evaluate_every: updates from one validation to the next.
        evaluation_batches: how many batches a validation reads.
        watch_every: updates from one record of the entropies to the next.
        threads: how many threads the linear algebra uses; 0 takes one for models less than 512 wide, and the library's choice for others.
        parallel: how processes started by torchrun share the work: "none" (one process), "ddp" (each holds the whole model) or "fsdp"
            (each holds a part of every layer, FSDP2).
        micro_batch: sequences of one forward and backward pass; None takes a process's whole share of the batch at once.
        precision: "fp32", "tf32" (a GPU's products of matrices round their factors to 11 bits; a CPU's do not), or "bf16" (autocast).
            Weights, gradients, attention scores and entropies stay float32.
        activation_checkpointing: compute each block's inside again in the backward pass instead of keeping it.
        compile: run the model through torch.compile.
        device: "cpu", or "cuda" (one GPU for each process).
        track: also send the numbers of metrics.jsonl to "tensorboard" or "wandb".
        teacher: folder of a checkpoint with the same tokenizer to learn from as well as from the text: the loss is
            (1 - w) cross-entropy + w tau^2 KL(teacher || student), the distributions at temperature tau. None for the text alone.
        teacher_weight: w, the weight of the teacher in the loss.
        teacher_temperature: tau, the temperature of both distributions.
        teacher_fingerprint: sha256 of the teacher's manifest, found there; where it is given, another teacher is refused.
        start: folder of a checkpoint of the same architecture, sizes and tokenizer whose weights the run begins with; None to begin with
            random ones.
        start_fingerprint: sha256 of its manifest, found there; where it is given, another one is refused.
    """

    steps: int = Field(default=1200, ge=1)
    batch: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    warmup_steps: int = Field(default=40, ge=0)
    final_learning_rate_fraction: float = Field(default=0.1, ge=0, le=1)
    optimiser: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = Field(default=1.0, gt=0)
    init_std: float = Field(default=0.02, gt=0)
    residual_init: float = Field(default=1.0, ge=0)
    score_penalty: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=200, ge=1)
    evaluation_batches: int = Field(default=32, ge=1)
    watch_every: int = Field(default=10, ge=1)
    threads: int = Field(default=0, ge=0)
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    micro_batch: int | None = Field(default=None, ge=1)
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    track: Literal["none", "tensorboard", "wandb"] = "none"
    teacher: Path | None = None
    teacher_weight: float = Field(default=0.5, gt=0, le=1)
    teacher_temperature: float = Field(default=1.0, gt=0)
    teacher_fingerprint: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    start: Path | None = None
    start_fingerprint: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    def __post_init__(self) -> None:
        if self.optimiser == "muon" and self.parallel == "fsdp":
            raise ValueError("Muon needs whole matrices, and fsdp shards them: use --training.parallel ddp, or --training.optimiser adamw.")
        if self.teacher_fingerprint is not None and self.teacher is None:
            raise ValueError("training.teacher_fingerprint says which teacher, but not where it is: add --training.teacher FOLDER.")
        if self.start_fingerprint is not None and self.start is None:
            raise ValueError("training.start_fingerprint says which checkpoint, but not where it is: add --training.start FOLDER.")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a training run; saved, resolved, beside the checkpoint.

    Attributes:
        architecture: a name, for example "EReg(SM(t)+ScFuFFN)".
        shape: sizes; `shape.vocabulary` is replaced by the tokenizer's.
        data: corpus and tokenizer.
        training: how the model is optimised.
        entropy: the regulariser and the temperature's start.
        output: folder of the checkpoint.
    """

    architecture: str = "EReg(SM(t)+ScFuFFN)"
    shape: ModelShape = ModelShape()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    entropy: EntropyConfig = EntropyConfig()
    output: Path = Path("runs/train")

    def __post_init__(self) -> None:
        parse(self.architecture)

    @property
    def parsed_architecture(self) -> Architecture:
        return parse(self.architecture)

    def to_dict(self) -> dict:
        """Plain JSON values, the inverse of `from_dict`."""
        return TypeAdapter(RunConfig).dump_python(self, mode="json")

    @staticmethod
    def from_dict(values: dict) -> RunConfig:
        """Raises: ValueError naming the first field that is wrong."""
        return TypeAdapter(RunConfig).validate_python(values)
