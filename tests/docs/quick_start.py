"""Go the way of docs/quick-start.md as a newcomer does, and time its steps.

    python -m tests.docs.quick_start --install --write

Every block of the page is run as it is printed, in order, in a new clone of this repository; what the page leaves to the reader's
browser is done by Chromium, where there is one. --write puts the seconds into results/quick-start.json and into the page. Without
--install the new folder uses this interpreter's installation, and the first step keeps the seconds it had.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hushlm.files import write_atomic
from hushlm.report.table import Column, Table
from tests.browser import chromium, open_page
from tests.docs.blocks import ROOT, RUN, read_blocks
from tests.docs.session import Session

PAGE = ROOT / "docs" / "quick-start.md"
RESULTS = ROOT / "results" / "quick-start.json"
BEGIN, END = "<!-- quick start: begin -->\n", "<!-- quick start: end -->"
HEADING = re.compile(r"^## (\d+\. .*)$", re.MULTILINE)
PROXY = "http://127.0.0.1:8080/"
ANSWER_MS = 300_000


def steps() -> dict[str, list[tuple[str, str]]]:
    """Language and text of every block that is to be run, by the heading above it."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = PAGE.read_text()
    headings = {text.count("\n", 0, match.start()) + 1: match[1] for match in HEADING.finditer(text)}
    for block in read_blocks(PAGE):
        if block.language in RUN:
            above = max(line for line in headings if line < block.line)
            found.setdefault(headings[above], []).append((block.language, block.text))
    return found


def install(folder: Path) -> float:
    """Returns: seconds."""
    start = time.perf_counter()
    subprocess.run(["make", "install"], cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def ask_on_the_page() -> float | None:
    """Ask in a real browser for four tokens. Returns: seconds; None without a browser."""
    try:
        with chromium() as browser:
            start = time.perf_counter()
            with open_page(browser, PROXY) as opened:
                opened.page.locator("#model option").wait_for(state="attached")
                opened.page.fill("#tokens", "4")
                opened.page.fill("#prompt", "import os")
                opened.page.click("#ask")
                opened.page.locator("#where", has_text="Done: 4 tokens").wait_for(timeout=ANSWER_MS)
                print(f"the page: {opened.page.text_content('#text')!r}", file=sys.stderr)
            return time.perf_counter() - start
    except BaseException as error:
        if type(error).__name__ != "Skipped":
            raise
        return None


def walk(folder: Path, python: str) -> dict[str, float]:
    """Run all steps but the first. Returns: seconds by step."""
    taken: dict[str, float] = {}
    session = Session(folder, python)
    try:
        for step, blocks in list(steps().items())[1:]:
            start = time.perf_counter()
            for language, text in blocks:
                print((session.shell if language == "sh" else session.python)(text), file=sys.stderr)
            taken[step] = time.perf_counter() - start
            if "page" in step and (asked := ask_on_the_page()) is not None:
                taken[step + ": a question in the browser"] = asked
    finally:
        session.close()
    return taken


def render(document: dict[str, Any]) -> str:
    """The page's table."""
    columns = (Column("step", "step"), Column("seconds", "seconds", ".0f", "right"))
    total = {"step": "together", "seconds": sum(row["seconds"] for row in document["rows"])}
    said = f"{document['cores']} cores, load average {document['load_average_before']} before."
    return f"\n{said}\n\n" + Table("", columns, [*document["rows"], total]).to_markdown() + "\n"


def write(taken: dict[str, float], load: float) -> None:
    rows = [{"step": step, "seconds": round(seconds, 1)} for step, seconds in taken.items()]
    if RESULTS.exists() and (first := next(iter(steps()))) not in taken:
        rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["step"] == first] + rows
    document = {"cores": os.cpu_count(), "load_average_before": round(load, 1), "rows": rows}
    write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    write_atomic(PAGE, before + BEGIN + render(document) + END + rest.partition(END)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--install", action="store_true", help="make the environment of the new folder, too: it fetches every package")
    parser.add_argument("--write", action="store_true", help="results/quick-start.json and docs/quick-start.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="hushlm-quick-start-") as name:
        folder = Path(name) / "hush"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        if options.install:
            os.environ.pop("PYTHONPATH", None)  # the new installation, and no other
        taken = {next(iter(steps())): install(folder)} if options.install else {}
        taken |= walk(folder, str(folder / ".venv" / "bin" / "python") if options.install else sys.executable)
    for step, seconds in taken.items():
        print(f"{seconds:7.1f} s  {step}")
    if options.write:
        write(taken, load)


if __name__ == "__main__":
    main()
