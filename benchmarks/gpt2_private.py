"""Bytes of one private token of GPT-2 small, counted step by step in real two-process runs, beside the paper and the engine's plain forms.

    python benchmarks/gpt2_private.py [--context 128] [--rows SM2+R,...] [--no-published-forms] [--write]
    python benchmarks/gpt2_private.py --recommended [--write]      # the models of hushlm.recommended, each at its own shape

Each distinct step of the plans runs once at its real shape between two processes (bytes repeat within 0.01%); a product cut by
rows runs one cut and is multiplied. A step is counted once and kept in results/gpt2-private-counts.json; delete it to count
anew. Totals add the steps of a plan up: embedding, all layers, last-position head and the private arg max. --write regenerates
the table in docs/measured-vs-paper.md, and --recommended --write the one below it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from hushlm.architectures import FeedForward, parse
from hushlm.calibration.counting import count_steps
from hushlm.config import ModelShape
from hushlm.cost import price
from hushlm.experiments.contest.models import Origin, models_from
from hushlm.files import write_atomic
from hushlm.plan import HUSH, PUBLISHED, Embed, Plan, Project, Rewrites, Step, decode_plan, needed_squarings, prefill_plan
from hushlm.private.engine import EngineSettings, engine_version
from hushlm.private.program.step_programs import step_program
from hushlm.recommended import RECOMMENDED
from hushlm.shapes import GPT2_SMALL
from sections import write_section

COUNTS = Path("results/gpt2-private-counts.json")
DOCUMENT = Path("docs/measured-vs-paper.md")
ROWS = ("SM+LN+G", "SM+LN+R", "SM+R", "SM2+R", "SM1+R", "SM+ScFuFFN", "SM2+ScFuFFN", "SM1+ScFuFFN")
PAPER_GB = {"SM+LN+G": 25.32, "SM+LN+R": 9.44, "SM+ScFuFFN": 6.43}
"""arXiv 2501.03489, Table 3: GPT-2 small, T = 128, one token, end to end."""


ANY_SQUARINGS = 2


def one_cut(step: Step) -> tuple[Step, int]:
    """A step whose product is cut into equal row blocks, as one block and how many there are."""
    operation = step.operation
    if isinstance(operation, Project | Embed) and operation.rows > operation.cut.rows and operation.rows % operation.cut.rows == 0:
        return replace(step, operation=replace(operation, rows=operation.cut.rows)), operation.rows // operation.cut.rows
    return step, 1


def key(plan: Plan, step: Step) -> str:
    """Names a count: the program, and the engine's squarings where they matter."""
    return f"{step_program(plan, step).key} squarings={needed_squarings(step.operation) or 'any'}"


def count_missing(plans: list[Plan], counts: dict[str, dict]) -> None:
    """Count every step that has no count yet, one session for each number of squarings."""
    missing: dict[int, dict[str, tuple[Plan, Step]]] = {}
    for plan in plans:
        for step in plan.steps:
            single, _ = one_cut(step)
            name = key(plan, single)
            squarings = needed_squarings(step.operation) or ANY_SQUARINGS
            if name not in counts:
                missing.setdefault(squarings, {}).setdefault(name, (plan, single))
    for squarings, work in missing.items():
        settings = EngineSettings(exponential_squarings=squarings)
        for name, job in work.items():
            print(f"counting {job[1].name}: {job[1].operation}", flush=True)
            (count,) = count_steps([job], settings, repeats=1)
            counts[name] = {
                "client_to_server_bytes": count.client.sent_bytes,
                "server_to_client_bytes": count.client.received_bytes,
                "messages": count.client.sent_messages + count.client.received_messages,
                "seconds": round(count.client.seconds, 3),
                "client_peak_bytes": count.client_peak_bytes,
                "server_peak_bytes": count.server_peak_bytes,
            }
            write_atomic(COUNTS, json.dumps({"engine": engine_version(), "counts": counts}, indent=1))


def total(plan: Plan, counts: dict[str, dict], kind: str) -> int:
    """Sum of a count over the steps of a plan."""
    found = 0
    for step in plan.steps:
        single, times = one_cut(step)
        found += times * counts[key(plan, single)][kind]
    return found


def both_ways(plan: Plan, counts: dict[str, dict]) -> int:
    return total(plan, counts, "client_to_server_bytes") + total(plan, counts, "server_to_client_bytes")


def plan_of(name: str, shape: ModelShape, context: int, rewrites: Rewrites, decode: bool = False) -> Plan:
    return (decode_plan if decode else prefill_plan)(parse(name), shape, context, None, rewrites)


def has_plain_form(name: str) -> bool:
    """The engine's examples have no activations like those that are made for its squares and products."""
    return parse(name).feed_forward not in (FeedForward.POLYNOMIAL, FeedForward.SQUARED_RELU, FeedForward.QUADRATIC, FeedForward.BILINEAR)


def report(names: list[str], shape: ModelShape, counts: dict[str, dict], published_forms: bool) -> list[dict]:
    """One row an architecture: counted, predicted by the cost room, published."""
    rows = []
    for name in names:
        prefill, decode = plan_of(name, shape, shape.context, HUSH), plan_of(name, shape, shape.context, HUSH, decode=True)
        without_head = replace(decode, steps=tuple(step for step in decode.steps if step.name not in ("head", "reveal")))
        row = {
            "architecture": name,
            "counted_bytes": both_ways(prefill, counts),
            "predicted_bytes": price(prefill).total.bytes,
            "messages": total(prefill, counts, "messages"),
            "further_token_bytes": both_ways(decode, counts),
            "further_token_without_head_bytes": both_ways(without_head, counts),
            "paper_gb": PAPER_GB.get(name),
        }
        if published_forms and has_plain_form(name):
            row["plain_forms_bytes"] = both_ways(plan_of(name, shape, shape.context, PUBLISHED), counts)
        rows.append(row)
    return rows


def markdown(rows: list[dict], context: int) -> str:
    plain = "plain_forms_bytes" in rows[0]
    titles = ["architecture", "counted GB", "predicted GB", "messages", "further token GB", "of it without head GB", "paper GB"]
    titles += ["engine's plain forms GB"] if plain else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [
            row["architecture"],
            f"{row['counted_bytes'] / 1e9:.3f}",
            f"{row['predicted_bytes'] / 1e9:.3f}",
            f"{row['messages']:,}",
            f"{row['further_token_bytes'] / 1e9:.4f}",
            f"{row['further_token_without_head_bytes'] / 1e9:.4f}",
            "-" if row["paper_gb"] is None else f"{row['paper_gb']:.2f}",
        ]
        cells += [f"{row['plain_forms_bytes'] / 1e9:.2f}" if "plain_forms_bytes" in row else "-"] if plain else []
        lines.append("| " + " | ".join(cells) + " |")
    return f"T = {context}, both directions, {engine_version()}, set-up not included.\n\n" + "\n".join(lines) + "\n"


def by_context(names: list[str], vocabulary: int) -> str:
    """Predicted GB of a token at longer contexts and of the deeper model of the paper's Table 8, by the cost room."""
    sizes = [(12, 128), (12, 256), (12, 512), (18, 128)]
    lines = [
        "| architecture | " + " | ".join(f"L={layers}, T={context}" for layers, context in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name in names:
        shapes = [ModelShape(layers=layers, heads=12, width=768, context=context, vocabulary=vocabulary) for layers, context in sizes]
        totals = [price(plan_of(name, shape, shape.context, HUSH)).total.bytes for shape in shapes]
        lines.append(f"| {name} | " + " | ".join(f"{found / 1e9:.2f}" for found in totals) + " |")
    return "By model, GB of the first token:\n\n" + "\n".join(lines) + "\n"


def recommended(counts: dict[str, dict]) -> str:
    """The recommended models, and those that were before seconds counted, at their own shapes, beside the prediction."""
    points = RECOMMENDED | {point.name: point for point in models_from(Origin.FORMERLY_RECOMMENDED)}
    plans = {
        name: [plan_of(point.architecture, point.shape, point.shape.context, HUSH, decode) for decode in (False, True)]
        for name, point in points.items()
    }
    count_missing([plan for both in plans.values() for plan in both], counts)
    lines = [
        "| model | architecture | L/H/D/F | counted GB | predicted GB | messages | further token GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (prefill, decode) in plans.items():
        point = points[name]
        shape = point.shape
        lines.append(
            f"| {name} | {point.architecture} | {shape.layers}/{shape.heads}/{shape.width}/{shape.ffn_width} | "
            f"{both_ways(prefill, counts) / 1e9:.3f} | {price(prefill).total.bytes / 1e9:.3f} | "
            f"{total(prefill, counts, 'messages'):,} | {both_ways(decode, counts) / 1e9:.4f} |"
        )
    return f"T = {GPT2_SMALL.context}, both directions, {engine_version()}, set-up not included.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--recommended", action="store_true", help="count the recommended models instead")
    parser.add_argument("--published-forms", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--write", action="store_true", help="regenerate the table in docs/measured-vs-paper.md")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    shape = replace(GPT2_SMALL, context=asked.context)
    names = asked.rows.split(",")
    counts = json.loads(COUNTS.read_text())["counts"] if COUNTS.is_file() else {}
    if asked.recommended:
        text = recommended(counts)
        print(text)
        if asked.write:
            write_section(DOCUMENT, "recommended", text)
        return
    plans = [plan_of(name, shape, asked.context, HUSH, decode) for name in names for decode in (False, True)]
    if asked.published_forms:
        plans += [plan_of(name, shape, asked.context, PUBLISHED) for name in names if has_plain_form(name)]
    count_missing(plans, counts)
    rows = report(names, shape, counts, asked.published_forms)
    text = f"{markdown(rows, asked.context)}\n{by_context(names, shape.vocabulary)}"
    print(json.dumps({"shape": shape.to_dict(), "rows": rows}, indent=1) if asked.json else text)
    if asked.write:
        write_section(DOCUMENT, "gpt2-private", text)


if __name__ == "__main__":
    main()
