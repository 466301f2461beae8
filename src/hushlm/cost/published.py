"""The published rows of private inference, as data (see published/SOURCE.md)."""

from __future__ import annotations

from dataclasses import dataclass

from hushlm.architectures import Architecture, parse
from hushlm.config import ModelShape
from hushlm.published import read_published
from hushlm.shapes import GPT2_VOCABULARY

__all__ = ["VOCABULARIES", "PublishedRow", "published_rows"]

VOCABULARIES = {"codeparrot": GPT2_VOCABULARY, "languini": 16_384}
"""Token ids of the published models, by data set: GPT-2's tokenizer ("50K") and Languini's own. They decide embedding and head."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of pi_cost.csv.

    Attributes:
        table: number of the table in the paper; "aero..." in arXiv 2410.13060.
        dataset: what the model was trained on.
        architecture, shape: parsed.
        ffn_gflops, attention_gflops: in units of 10^9, rounded as printed.
        bytes: both directions, one token.
        minutes: over 100 Mbps and 80 ms.
    """

    table: str
    dataset: str
    architecture: Architecture
    shape: ModelShape
    ffn_gflops: float
    attention_gflops: float
    bytes: float
    minutes: float


def published_rows() -> tuple[PublishedRow, ...]:
    """Every row, in the file's order."""
    return tuple(_row(values) for values in read_published("pi_cost.csv"))


def _row(values: dict[str, str]) -> PublishedRow:
    shape = ModelShape(
        layers=int(values["layers"]),
        heads=int(values["heads"]),
        width=int(values["d"]),
        context=int(values["context"]),
        vocabulary=VOCABULARIES[values["dataset"]],
    )
    return PublishedRow(
        table=values["table"],
        dataset=values["dataset"],
        architecture=parse(values["architecture"]),
        shape=shape,
        ffn_gflops=float(values["ffn_gflops"]),
        attention_gflops=float(values["attn_gflops"]),
        bytes=float(values["comm_gb"]) * 1e9,
        minutes=float(values["latency_min"]),
    )
