"""`hushlm cost frontier`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hushlm.report.table import print_json, print_table
from hushlm.shapes import GPT2_VOCABULARY

__all__ = ["frontier"]


def frontier(
    *,
    budget: str = "",
    parameters: str = "",
    architectures: str = "",
    layers: str = "2,4,6,8,12,16,24",
    widths: str = "64,128,256,384,512,768,1024",
    heads: str = "1,2,4,8,12,16",
    context: int = 128,
    vocab: int = GPT2_VOCABULARY,
    ffn_multiple: int = 4,
    network: str = "wan",
    profile: Literal["wan", "lan"] = "wan",
    checkpoints: str = "",
    results: str = "",
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Find the largest models for a budget of bytes, and the cheapest of a size.

    Combines every attention kernel, feed-forward network (FFN) and normalisation that architectures can have with every given shape, and
    prices one private token after a full context: thousands of models in some seconds. For each kind of model (everything but its kernel)
    the best is printed. Bytes are what the two-party engine moves in both directions. Where nobody has trained a model, its size stands in
    for quality; where perplexities were measured (--checkpoints, --results), those are held against bytes.

    Args:
        budget: how many bytes one private pass may move, e.g. 2GB; several separated by commas.
        parameters: how many parameters a model must have at least, e.g. 100M; prints the cheapest ones.
        architectures: names separated by commas; by default every combination, without temperatures and removed FFNs.
        layers: numbers of blocks to try.
        widths: widths of the residual stream to try.
        heads: numbers of heads in a block to try, where they divide the width.
        context: how many tokens the pass reads.
        vocab: how many token ids there are.
        ffn_multiple: how many times as wide as the residual stream the FFN is.
        network: lan, wan, or round trip in ms and bandwidth in Mbps, for example 30ms,50Mbps.
        profile: the engine's settings, as for `hushlm export`.
        checkpoints: folders of trained models, as a pattern like "runs/*"; several separated by commas.
        results: files that the repository's benchmarks/kernels.py wrote, separated by commas.
        output: the folder for the figures and the document.
        json: print one JSON document with every candidate instead of the tables.
    """
    from hushlm.architectures import parse
    from hushlm.cost.budget import SearchSpace, every_architecture
    from hushlm.cost.network import parse_network
    from hushlm.cost.quantities import parse_bytes, parse_count, parse_integers
    from hushlm.plan import ProtocolSettings
    from hushlm.report.budget_report import FrontierReport, measured_models

    budgets = [parse_bytes(part) for part in budget.split(",")] if budget else []
    at_least = parse_count(parameters) if parameters else None
    measured = measured_models(checkpoints, results)
    if not budgets and at_least is None and not measured:
        raise ValueError(
            "frontier needs a --budget like 2GB, a number of --parameters like 100M, or models to compare (--checkpoints, --results)."
        )
    named = tuple(parse(name) for name in architectures.split(",")) if architectures else every_architecture()
    space = SearchSpace(
        named,
        parse_integers(layers, "Layers"),
        parse_integers(widths, "Widths"),
        parse_integers(heads, "Heads"),
        context,
        vocab,
        ffn_multiple,
    )
    settings = ProtocolSettings(pack_products=profile == "wan")
    report = FrontierReport.make(space, budgets, at_least, measured, parse_network(network), settings)
    written = report.write(output) if output is not None else []
    if json:
        print_json(report.to_dict())
        return
    for table in report.tables():
        print_table(table)
    for path in written:
        print(path)
