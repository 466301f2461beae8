"""`hushlm cost`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from hushlm.architectures import Architecture, parse
from hushlm.cli.cost_model import PricedModel, priced_model
from hushlm.config import ModelShape
from hushlm.cost.counts import check_size, flops, nonlinear_operations
from hushlm.cost.generation import GenerationCost, price_generation
from hushlm.cost.network import Network, parse_network
from hushlm.cost.prepared import ANSWERS, PreparedCost, price_prepared, price_prepared_passes
from hushlm.cost.pricing import CostReport
from hushlm.plan import LENGTH_BUCKET, PUBLISHED, Reveal, parse_reveal
from hushlm.report.cost_tables import against_table, amounts_table, residuals_table
from hushlm.report.prepared_report import phase_rows, phases_table, records_table
from hushlm.report.table import print_json, print_table

__all__ = ["cost"]


def cost(
    architecture: str | None = None,
    *,
    layers: int | None = None,
    heads: int | None = None,
    width: int | None = None,
    context: int | None = None,
    vocab: int | None = None,
    ffn_multiple: int | None = None,
    prompt: int | None = None,
    new_tokens: int = 1,
    answers: int = ANSWERS,
    reveal: str = "token",
    network: str = "wan",
    protocol: Literal["cheetah"] = "cheetah",
    profile: Literal["wan", "lan"] | None = None,
    forms: Literal["hush", "published"] = "hush",
    baseline: str = "SM+LN+G",
    against: Literal["paper"] | None = None,
    growth: bool = False,
    calibrate: bool = False,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Price private inference of an architecture or of a model: operations, FLOPs, bytes, time, memory.

    Needs no weights and no engine. Bytes are what the two-party engine moves, both directions, in steady state; they are predicted
    from its own rules and checked against counted runs. Lengths are priced as a session runs them: rounded up to a multiple of 32
    tokens, at most the context. `hushlm cost frontier` searches architectures and shapes for a budget.

    With the folder of a checkpoint or of an export, architecture, shape and program are read from it. With an architecture's name,
    the shape is GPT-2 small's (12 layers of 12 heads, width 768, context 128, 50,257 token ids, FFN multiple 4) unless given.

    Args:
        architecture: its name (`hushlm architectures` lists them), or the folder of a checkpoint or of an export; not needed with
            --against and --calibrate.
        layers: number of blocks.
        heads: attention heads of a block; must divide the width.
        width: width of the residual stream.
        context: length of the longest sequence, in tokens.
        vocab: number of token ids.
        ffn_multiple: width of the feed-forward networks (FFN), as a multiple of the width.
        prompt: tokens of the prompt; as many as leave room for the new tokens by default.
        new_tokens: tokens to generate, with keys and values kept as shares.
        answers: how many answers are prepared in one go, for the price of prepared answers.
        reveal: what the client learns: token, topk:K, logits, or candidates:K, the likeliest of K given tokens.
        network: lan, wan, or round trip in ms and bandwidth in Mbps, for example 30ms,50Mbps.
        protocol: the engine's protocol.
        profile: the engine's settings, as for `hushlm export`: wan packs matrix products, lan spends bytes to save the server's CPU; an
            export's own, otherwise wan, by default.
        forms: the program as Hush runs it, or as the engine's own examples write it.
        baseline: architecture that savings are measured against, with the published forms.
        against: print published figures beside ours, and the field's records with whom each trusts.
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
    sizes = {"layers": layers, "heads": heads, "width": width, "context": context, "vocab": vocab, "ffn_multiple": ffn_multiple}
    model, link = priced_model(architecture, sizes, profile, forms), parse_network(network)
    shape = model.shape
    check_size(shape)
    if output is not None and not growth:
        raise ValueError("--output goes with --growth or --calibrate: a price alone writes no file; redirect --json instead.")
    if growth:
        _growth(model.architecture, shape, link, output, json)
        return
    if prompt is None:
        prompt = max(1, shape.context - new_tokens + 1)
    policy = _reveal(reveal, shape.vocabulary)
    answer = price_generation(model.architecture, shape, prompt, new_tokens, policy, model.rewrites, model.settings, link)
    # As it was published, which is with stocks of transfers.
    base = price_generation(parse(baseline), shape, prompt, new_tokens, policy, PUBLISHED, network=link, transfers="ferret")
    document, prepared = _document(model, prompt, answer, baseline, base, link) | {"prepared": None}, None
    # An answer that fills the whole context leaves nothing that could be prepared.
    if new_tokens < shape.context:
        asked = (model.architecture, shape, prompt, new_tokens, policy, model.rewrites, model.settings)
        prepared = price_prepared(*asked, link, answers)
        by_network = {network: price_prepared_passes(*asked, link, forms=link)}
        document["prepared"] = prepared.to_dict() | {"phases": phase_rows(answer, prepared, by_network)}
    if json:
        print_json(document)
    else:
        _print(document, answer, prepared)


def _reveal(text: str, vocabulary: int) -> Reveal:
    name, _, number = text.partition(":")
    if name == "candidates" and number.isdigit() and 2 <= int(number) <= vocabulary:
        return Reveal(int(number), "token")
    kind, top = parse_reveal(text)
    if top > vocabulary:
        raise ValueError(f"Of {vocabulary} token ids not {top} can be revealed: choose topk:K with K up to {vocabulary}.")
    return Reveal(vocabulary, kind, top)


def _document(
    model: PricedModel, prompt: int, answer: GenerationCost, baseline: str, base: GenerationCost, network: Network
) -> dict[str, Any]:
    named, shape, first = model.architecture, model.shape, answer.passes[0]
    length = first.plan.rows
    further = answer.passes[1:]
    return {
        "architecture": str(named),
        "folder": None if model.folder is None else str(model.folder),
        "engine": _engine(),
        "shape": shape.to_dict(),
        "prompt": prompt,
        "prompt_run_at": length,
        "new_tokens": len(answer.passes),
        "network": asdict(network),
        "nonlinear_operations": [str(operation) for operation in nonlinear_operations(named, shape, length)],
        "flops": {convention: flops(named, shape, length, convention).to_dict() for convention in ("paper", "full")},
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


def _print(document: dict[str, Any], answer: GenerationCost, prepared: PreparedCost | None) -> None:
    first: CostReport = answer.passes[0]
    shape, counted = first.plan.shape, document["flops"]
    print(f"{document['architecture']}   L={shape.layers} H={shape.heads} D={shape.width} V={shape.vocabulary}, {document['engine']}")
    if document["folder"] is not None:
        print(f"Read from {document['folder']}.")
    if first.plan.rows != document["prompt"]:
        print(
            f"A prompt of {document['prompt']} tokens is run, and priced, at {first.plan.rows}: a session rounds lengths up to a multiple "
            f"of {LENGTH_BUCKET}, at most the context of {shape.context}."
        )
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
    kind = "" if first.transfers == "ferret" else ", transfers by SoftSpoken"
    summary[f"set-up, once a session{kind}"] = first.set_up
    print_table(amounts_table("Sums", "", {name: amount.to_dict() for name, amount in summary.items()}))
    if prepared is not None:
        print_table(phases_table(document["prepared"]["phases"], prepared))
    base = document["baseline"]
    print(
        f"Memory, estimated: client {document['client_peak_bytes'] / 1e9:.1f} GB, server {document['server_peak_bytes'] / 1e9:.1f} GB. "
        f"{base['architecture']} in the published forms moves {base['bytes_ratio']:.1f} times the bytes."
    )


def _against(json: bool) -> None:
    from hushlm.cost.against import NOTE, against_paper
    from hushlm.cost.records import RECORDS_NOTE, records

    rows, others = against_paper(), [record.to_dict() for record in records()]
    if json:
        print_json({"engine": _engine(), "rows": rows, "note": NOTE, "records": others, "records_note": RECORDS_NOTE})
        return
    print_table(against_table(rows, NOTE))
    print_table(records_table(others, RECORDS_NOTE))


def _growth(architecture: Architecture, shape: ModelShape, network: Network, output: Path | None, json: bool) -> None:
    from hushlm.report.growth_report import GrowthReport

    report = GrowthReport.make(architecture, shape, network)
    written = report.write(output) if output is not None else []
    if json:
        print_json(report.to_dict())
        return
    for table in report.tables():
        print_table(table)
    for path in written:
        print(path)


def _calibrate(output: Path | None, json: bool) -> None:
    from hushlm.extras import require_engine

    require_engine()
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
