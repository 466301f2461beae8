"""The named points of the contest, served: two processes, a held-out prompt, private tokens beside plaintext ones.

    python benchmarks/frontier_private.py [--preset micro] [--new-tokens 16]

Takes seed 0's checkpoint of every named point in results/frontier-PRESET.json from the folder of runs, exports it and asks it over mutual
TLS. Writes results/frontier-private.json: tokens, whether they are the plaintext model's, bytes counted and predicted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from hushlm.data import open_token_store
from hushlm.demo.private_answer import answer_privately
from hushlm.demo.settings import DemoSettings
from hushlm.files import write_atomic
from hushlm.frontier.page import read_results
from hushlm.frontier.presets import SCALES
from hushlm.reproduce.runs import Job
from hushlm.reproduce.study import with_changes


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--preset", default="micro", choices=("micro", "small"))
    options.add_argument("--new-tokens", type=int, default=16)
    options.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
    options.add_argument("--results", type=Path, default=Path("results"))
    chosen = options.parse_args()
    scale = SCALES[chosen.preset]
    rows = []
    for point in read_results(chosen.results / f"frontier-{chosen.preset}.json")["points"]:
        if not point["name"]:
            continue
        changes = [*point["changes"].items(), ("training.learning_rate", point["learning_rate"])]
        config = with_changes(replace(scale.base, architecture=point["architecture"]), changes)
        job = Job.of(config, chosen.runs / chosen.preset, scale.evaluation_batches, None)
        folder = chosen.runs / chosen.preset / "private" / point["name"].replace(" ", "-")
        settings = replace(
            DemoSettings.full(folder, 0, config.training.steps, config.data.tokenizer),
            new_tokens=chosen.new_tokens,
        )
        answer = answer_privately(job.config.output, open_token_store(config.data), settings, print)
        found = answer.to_dict()
        kept = {name: value for name, value in found.items() if not name.endswith("_folder")}
        rows.append({"name": point["name"], "architecture": point["architecture"], **kept})
        counted = (answer.bytes_client_to_server + answer.bytes_server_to_client) / 1e6
        verdict = "equal" if answer.tokens_equal_plaintext else "DIFFER FROM"
        print(f"{point['name']}: tokens {verdict} plaintext's; counted {counted:.1f} MB, predicted {answer.predicted_bytes / 1e6:.1f}")
    document = {"command": f"python benchmarks/frontier_private.py --preset {chosen.preset}", "rows": rows}
    write_atomic(chosen.results / "frontier-private.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
