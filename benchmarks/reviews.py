"""The reviews of examples/reviews.jsonl, classified by SmolLM2-135M-Instruct in the clear, by its private program, and between two parties.

    python benchmarks/smollm2_private.py --folder runs/smollm2     # first: the import, the export
    python benchmarks/reviews.py --folder runs/smollm2 --write

The two parties, which take longest, are asked the first reviews alone, from material prepared for all of them together. Answers that are
in the folder already are not made again; material is, since its server is gone. Bytes and seconds of a question are the client's own count.
--write keeps the answers in results/reviews.json, and draws the table of docs/guides/score-and-classify.md again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hushlm.files import write_atomic
from hushlm.private.keys.certificates import create_keys
from sections import write_section
from smollm2_served import SILENT_SECONDS, prepare, running

REVIEWS, RESULTS, DOCUMENT = Path("examples/reviews.jsonl"), Path("results/reviews.json"), Path("docs/guides/score-and-classify.md")
PADDED = 32
"""The bucket that every review fits, in tokens."""


def batch(questions: Path, output: Path, *words: str) -> list[dict[str, Any]]:
    """`hushlm ask --batch`. Returns: its answers, a document a line."""
    subprocess.run([sys.executable, "-m", "hushlm", "ask", "--batch", questions, "--output", output, *words], check=True)
    return [json.loads(line) for line in output.read_text().splitlines()]


def between_two_parties(export: Path, questions: Path, output: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Prepare as many answers as there are questions, then ask them. Returns: the answers, and what preparing took."""
    with tempfile.TemporaryDirectory(prefix="hushlm-reviews-") as temporary:
        keys, times = Path(temporary) / "keys", ["--silent-seconds", SILENT_SECONDS, "--connect-seconds", "600"]
        create_keys(keys, ["127.0.0.1"])
        stored = ["--prepare-folder", f"{temporary}/stored"]
        serve = ["serve", str(export / "server"), "--keys", str(keys), "--listen", "127.0.0.1:0", *stored, *times]
        with running(Path(temporary) / "serve.log", *serve) as (server, address):
            spent = prepare(export, keys, address, PADDED, 1, server, count)
            ask = ["--model", str(export / "client"), "--keys", str(keys), "--server", address, "--prepared", "only", *times]
            return batch(questions, output, *ask), spent


def table(document: dict[str, Any]) -> str:
    """How many answers of each way are as expected, and how many as in the clear."""
    plain = {answer["id"]: answer["candidate"] for answer in document["answers"]["plain"]}
    lines = [
        "| SmolLM2-135M-Instruct, `sm3` | reviews | as expected | as in the clear | a review: MB | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    names = {"plain": "in the clear", "simulated": "private program in one process", "private": "between two parties, prepared"}
    for way, name in names.items():
        answers = document["answers"][way]
        right = sum(answer["right"] for answer in answers)
        same = sum(answer["candidate"] == plain[answer["id"]] for answer in answers)
        seconds = sum(answer["seconds"] for answer in answers) / len(answers)
        moved = sum(answer["bytes"] for answer in answers) / len(answers) / 1e6 if way == "private" else None
        cost = f"{'-' if moved is None else f'{moved:,.1f}'} | {seconds:,.1f}"
        lines.append(f"| {name} | {len(answers)} | {right} | {'-' if way == 'plain' else same} | {cost} |")
    spent, count = document["prepare"], len(document["answers"]["private"])
    cost = f"{spent['prepare_bytes'] / count / 1e6:,.1f} | {spent['prepare_seconds'] / count:,.1f}"
    lines.append(f"| before the review, {count} prepared together | {count} | - | - | {cost} |")
    return "\n".join(lines) + "\n"


def kept(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    fields = ("id", "candidate", "expected", "right", "seconds", "bytes")
    return [{field: answer[field] for field in fields if field in answer} for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2"), help="where smollm2_private.py left checkpoint and export")
    parser.add_argument("--private", type=int, default=3, help="how many reviews two parties are asked")
    parser.add_argument("--write", action="store_true", help=f"{RESULTS} and {DOCUMENT}")
    options = parser.parse_args()
    export = options.folder / "private"
    first = options.folder / "first-reviews.jsonl"
    first.write_text("".join(f"{line}\n" for line in REVIEWS.read_text().splitlines()[: options.private]))
    load = os.getloadavg()[0]
    private, spent = between_two_parties(export, first, options.folder / "reviews-private.jsonl", options.private)
    plain = batch(REVIEWS, options.folder / "reviews-plain.jsonl", "--mode", "plain", "--model", str(options.folder / "checkpoint"))
    simulated = batch(REVIEWS, options.folder / "reviews-simulated.jsonl", "--mode", "simulate", "--model", str(export))
    answers = {"plain": kept(plain), "simulated": kept(simulated), "private": kept(private)}
    document = {"cores": os.cpu_count(), "load_average_before": round(load, 2), "prepare": spent, "answers": answers}
    print(table(document))
    if options.write:
        write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")
        write_section(DOCUMENT, "reviews", table(document))


if __name__ == "__main__":
    main()
