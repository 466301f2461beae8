"""The recommended models, served: two processes, a held-out prompt, private tokens beside plaintext ones.

    python benchmarks/frontier_private.py [--preset micro] [--new-tokens 16] [--only Hush-M]

Takes seed 0's checkpoint of every recommended model in results/frontier-PRESET.json from the folder of runs, exports it and asks it over
mutual TLS. The prompt is the first of those that seeds 0, 1, ... choose whose plaintext answer is not a near tie anywhere (two logits
within `LEAST_MARGIN`): there the last bit of fixed point decides, one run of two. Writes results/frontier-private.json: tokens, whether
they are the plaintext model's, bytes counted and predicted; with --only that row alone is made anew. With a preset of the contest in
seconds the answer is prepared before it is asked for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import count
from pathlib import Path

from hushlm.data import TokenStore, open_token_store
from hushlm.demo.demo_settings import DemoSettings
from hushlm.demo.private_answer import answer_privately, choose_prompt, smallest_margin
from hushlm.experiments.contest.contest_page import read_contest
from hushlm.experiments.experiment import with_changes
from hushlm.experiments.runs import Job
from hushlm.experiments.scales import CONTEST_SCALES
from hushlm.files import write_atomic
from hushlm.recommended import RECOMMENDED
from hushlm.training import load_checkpoint

LEAST_MARGIN = 0.01


def prompt_seed(checkpoint: Path, store: TokenStore, settings: DemoSettings) -> int:
    """The first seed whose prompt has an answer without a near tie."""
    model = load_checkpoint(checkpoint).model
    for seed in count():
        prompt = choose_prompt(store.tokens["validation"], store.tokenizer, settings.prompt_tokens, seed)
        if smallest_margin(model, prompt, model.greedy(prompt, settings.new_tokens)) >= LEAST_MARGIN:
            return seed
    raise AssertionError


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--preset", default="micro", choices=("micro", "small", "micro-online", "small-online"))
    options.add_argument("--new-tokens", type=int, default=16)
    options.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
    options.add_argument("--results", type=Path, default=Path("results"))
    options.add_argument("--only", help="a point's name")
    chosen = options.parse_args()
    scale = CONTEST_SCALES[chosen.preset]
    results = chosen.results / "frontier-private.json"
    before = {row["name"]: row for row in json.loads(results.read_text())["rows"]} if results.is_file() else {}
    document = read_contest(chosen.results / f"frontier-{chosen.preset}.json")
    named = {point["name"]: point for point in (*document["points"], *document.get("grown", ())) if point["name"]}
    rows = [row for name, row in before.items() if name in RECOMMENDED and name not in named]  # of another preset
    for point in sorted(named.values(), key=lambda point: point["bytes_gpt2_small"]):
        if chosen.only not in (None, point["name"]):
            rows += [before[point["name"]]] if point["name"] in before else []
            continue
        changes = (*point["changes"].items(), ("training.learning_rate", point["learning_rate"]))
        config = with_changes(replace(scale.base, architecture=point["architecture"]), changes)
        job = Job.of(config, chosen.runs / chosen.preset, scale.evaluation_batches, None)
        folder = chosen.runs / chosen.preset / "private" / point["name"].replace(" ", "-")
        settings = replace(
            DemoSettings.full(folder, 0, config.training.steps, config.data.tokenizer, config.architecture),
            new_tokens=chosen.new_tokens,
        )
        store = open_token_store(config.data)
        settings = replace(settings, seed=prompt_seed(job.config.output, store, settings))
        answer = answer_privately(job.config.output, store, settings, print, prepare=scale.objective == "online")
        kept = {name: value for name, value in answer.to_dict().items() if not name.endswith("_folder")}
        rows.append(
            {"name": point["name"], "preset": chosen.preset, "architecture": point["architecture"], "prompt_seed": settings.seed, **kept}
        )
        counted = (kept["bytes_client_to_server"] + kept["bytes_server_to_client"]) / 1e6
        verdict = "equal" if answer.tokens_equal_plaintext else "DIFFER FROM"
        print(f"{point['name']}: tokens {verdict} plaintext's; counted {counted:.1f} MB, predicted {kept['predicted_bytes'] / 1e6:.1f}")
    found = {"command": f"python benchmarks/frontier_private.py --preset {chosen.preset}", "rows": rows}
    write_atomic(results, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
