"""The published costs of private inference, as data; published/SOURCE.md says where they come from."""

from __future__ import annotations

from dataclasses import dataclass

from hushlm.architectures import Architecture, parse
from hushlm.config import ModelShape
from hushlm.published import read_published
from hushlm.shapes import GPT2_VOCABULARY

__all__ = ["VOCABULARIES", "PublishedRow", "published_rows"]

VOCABULARIES = {"codeparrot": GPT2_VOCABULARY, "languini": 16_384}
"""How many token ids the published models have, by data set: those of GPT-2's tokenizer ("50K"), and Languini's own. The number decides
the sizes of embedding and head."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of pi_cost.csv.

    Attributes:
        table: the number of the table in arXiv 2501.03489, or "aero" and the number of the table in arXiv 2410.13060.
        dataset: the data set that the model was trained on.
        architecture, shape: what the model is and how large it is.
        ffn_gflops, attention_gflops: floating-point operations in units of 10^9, rounded as they were printed.
        bytes: the bytes of both directions for one token.
        minutes: how long the token took over a network of 100 Mbps with a round trip of 80 ms.
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
    """Every row, in the order of the file."""
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
