"""`hushlm report`."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["report"]


def report(runs: list[Path], output: Path = Path("report.html"), network: str = "wan") -> None:
    """Write one HTML file that shows runs side by side: training, attention heads step by step, and private prices.

    The file holds all that it shows and can be opened, sent and kept without a network. A run that is going on, or that diverged, can be
    shown as well.

    Args:
        runs: --output folders of trainings, or files that `hushlm entropy --json` printed.
        output: the HTML file.
        network: what the seconds of the prices are for: lan, wan, or round trip in ms and bandwidth in Mbps, for example 30ms,50Mbps.
    """
    from hushlm.cost.network import parse_network
    from hushlm.report.page.document import write_report

    link = parse_network(network)
    if output.is_dir():
        raise ValueError(f"--output: {output} is a folder; give the name of the HTML file.")
    for sentence in write_report(runs, output, link):
        print(sentence, file=sys.stderr)
    print(output)
