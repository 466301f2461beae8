"""`hushlm cost`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost.counts import check_size, flops, nonlinear_operations
from hushlm.cost.network import Network, parse_network
from hushlm.cost.pricing import CostReport, GenerationCost, price_generation
from hushlm.plan import HUSH, PUBLISHED, ProtocolSettings, Reveal, parse_reveal
from hushlm.report.cost_tables import against_table, amounts_table, residuals_table
from hushlm.report.table import print_json, print_table
from hushlm.shapes import GPT2_VOCABULARY

__all__ = ["cost"]


def cost(
    architecture: str | None = None,
    *,
    layers: int = 12,
    heads: int = 12,
    width: int = 768,
    context: int = 128,
    vocab: int = GPT2_VOCABULARY,
    ffn_multiple: int = 4,
    prompt: int | None = None,
    new_tokens: int = 1,
    reveal: str = "token",
    network: str = "wan",
    protocol: Literal["cheetah"] = "cheetah",
    profile: Literal["wan", "lan"] = "wan",
    forms: Literal["hush", "published"] = "hush",
    baseline: str = "SM+LN+G",
    against: Literal["paper"] | None = None,
    growth: bool = False,
    calibrate: bool = False,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Price private inference of an architecture: operations, FLOPs, bytes, time, memory.

    Needs no weights and no engine. Bytes are what the two-party engine moves, both directions, in steady state; they are predicted
    from its own rules and checked against counted runs. The shape is GPT-2 small's unless given. `hushlm cost frontier` searches
    architectures and shapes for a budget.

    Args:
        architecture: its name, see `hushlm architectures`; not needed with --against and --calibrate.
        layers: blocks.
        heads: per block; must divide the width.
        width: of the residual stream.
        context: longest sequence.
        vocab: token ids.
        ffn_multiple: FFN width over the width.
        prompt: tokens of the prompt; as many as leave room for the new tokens by default.
        new_tokens: to generate, with keys and values kept as shares.
        reveal: what the client learns: token, topk:K or logits.
        network: lan, wan, or round trip in ms and bandwidth in Mbps, e.g. 20,300.
        protocol: of the engine.
        profile: the engine's settings, as for `hushlm export`: wan packs matrix products, lan spends bytes to save the server's CPU.
        forms: the program as Hush runs it, or as the engine's own examples write it.
        baseline: architecture that savings are measured against, with the published forms.
        against: print published figures beside ours.
        growth: print how the price grows with each size and with new tokens, up to 4096 tokens and a 7B model.
        calibrate: run micro-programs in two processes and refit the constants; some minutes.
        output: with --calibrate a file for the refitted constants, with --growth a folder for the figures.
        json: print one JSON document instead of the tables.
    """
    if calibrate:
        _calibrate(output, json)
        return
    if against is not None:
        _against(json)
        return
    if architecture is None:
        raise ValueError("cost needs an ARCHITECTURE (`hushlm architectures` lists them), or --against paper, or --calibrate.")
    named, link = parse(architecture), parse_network(network)
    shape = ModelShape(layers=layers, heads=heads, width=width, context=context, vocabulary=vocab, ffn_multiple=ffn_multiple)
    check_size(shape)
    if growth:
        _growth(architecture, shape, link, output, json)
        return
    if prompt is None:
        prompt = max(1, context - new_tokens + 1)
    rewrites = PUBLISHED if forms == "published" else HUSH
    settings = ProtocolSettings(pack_products=profile == "wan")
    answer = price_generation(named, shape, prompt, new_tokens, _reveal(reveal, vocab), rewrites, settings, link)
    base = price_generation(parse(baseline), shape, prompt, new_tokens, _reveal(reveal, vocab), PUBLISHED, network=link)
    document = _document(architecture, shape, prompt, answer, baseline, base, link)
    if json:
        print_json(document)
    else:
        _print(document, answer)


def _reveal(text: str, vocabulary: int) -> Reveal:
    kind, top = parse_reveal(text)
    if top > vocabulary:
        raise ValueError(f"Of {vocabulary} token ids not {top} can be revealed: choose topk:K with K up to {vocabulary}.")
    return Reveal(vocabulary, kind, top)


def _document(
    architecture: str, shape: ModelShape, prompt: int, answer: GenerationCost, baseline: str, base: GenerationCost, network: Network
) -> dict[str, Any]:
    named, first = parse(architecture), answer.passes[0]
    further = answer.passes[1:]
    return {
        "architecture": str(named),
        "engine": _engine(),
        "shape": asdict(shape),
        "prompt": prompt,
        "new_tokens": len(answer.passes),
        "network": asdict(network),
        "nonlinear_operations": [str(operation) for operation in nonlinear_operations(named, shape, prompt)],
        "flops": {convention: flops(named, shape, prompt, convention).to_dict() for convention in ("paper", "full")},
        "total": answer.total.to_dict(),
        "without_cache": answer.without_cache.to_dict(),
        "set_up": first.set_up.to_dict(),
        "first_token": first.to_dict(),
        "last_further_token": further[-1].to_dict() if further else None,
        "client_peak_bytes": max(report.client_peak_bytes for report in answer.passes),
        "server_peak_bytes": max(report.server_peak_bytes for report in answer.passes),
        "baseline": {
            "architecture": baseline,
            "forms": "published",
            "total": base.total.to_dict(),
            "bytes_ratio": base.total.bytes / answer.total.bytes,
            "seconds_ratio": base.total.seconds / answer.total.seconds,
        },
    }


def _engine() -> str:
    from hushlm.cost.constants import load_constants

    return load_constants().engine


def _print(document: dict[str, Any], answer: GenerationCost) -> None:
    first: CostReport = answer.passes[0]
    shape, counted = first.plan.shape, document["flops"]
    print(f"{document['architecture']}   L={shape.layers} H={shape.heads} D={shape.width} V={shape.vocabulary}, {document['engine']}")
    print("nonlinear operations: " + "; ".join(document["nonlinear_operations"]))
    print(
        f"GFLOP: FFN {counted['paper']['ffn'] / 1e9:.1f}, attention {counted['paper']['attention'] / 1e9:.1f} (the paper's convention); "
        f"in full {counted['full']['ffn'] / 1e9:.1f} + {counted['full']['attention'] / 1e9:.1f}, head {counted['full']['head'] / 1e9:.1f}"
    )
    note = f"Seconds on {first.network}. Payload of the engine's link: framing adds about 3%."
    kinds = {name: amount.to_dict() for name, amount in first.by_operation.items()}
    print_table(amounts_table(f"First token, prompt of {document['prompt']}", "operation", kinds, note))
    layers = {"outside" if layer is None else str(layer): amount.to_dict() for layer, amount in first.by_layer.items()}
    print_table(amounts_table("By layer", "layer", layers))
    summary = {"first token": first.total}
    if len(answer.passes) > 1:
        summary |= {
            f"{len(answer.passes)} tokens, keys and values kept": answer.total,
            f"{len(answer.passes)} tokens, a whole pass each": answer.without_cache,
            "the last further token": answer.passes[-1].total,
        }
    summary["set-up, once a session"] = first.set_up
    print_table(amounts_table("Sums", "", {name: amount.to_dict() for name, amount in summary.items()}))
    base = document["baseline"]
    print(
        f"Memory, estimated: client {document['client_peak_bytes'] / 1e9:.1f} GB, server {document['server_peak_bytes'] / 1e9:.1f} GB. "
        f"{base['architecture']} in the published forms moves {base['bytes_ratio']:.1f} times the bytes."
    )


def _against(json: bool) -> None:
    from hushlm.cost.against import NOTE, against_paper

    rows = against_paper()
    if json:
        print_json({"engine": _engine(), "rows": rows, "note": NOTE})
        return
    print_table(against_table(rows, NOTE))


def _growth(architecture: str, shape: ModelShape, network: Network, output: Path | None, json: bool) -> None:
    from hushlm.report.growth_report import GrowthReport

    report = GrowthReport.make(parse(architecture), shape, network)
    written = report.write(output) if output is not None else []
    if json:
        print_json(report.to_dict())
        return
    for table in report.tables():
        print_table(table)
    for path in written:
        print(path)


def _calibrate(output: Path | None, json: bool) -> None:
    from hushlm.calibration.fit import calibrate
    from hushlm.files import write_atomic

    fitted = calibrate()
    path = output or Path("cost-constants.json")
    write_atomic(path, fitted.to_json())
    residuals = [asdict(residual) | {"relative": residual.relative} for residual in fitted.residuals]
    if json:
        print_json({"file": str(path), "engine": fitted.engine, "values": asdict(fitted.values), "residuals": residuals})
        return
    print_table(residuals_table(f"{fitted.engine}, constants version {fitted.version}: residuals", residuals))
    print(path)
