"""`hushlm demo`."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from pathlib import Path

__all__ = ["demo"]


def demo(
    output: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    tokenizer: str = "bytes",
    private_architecture: str | None = None,
    quick: bool = False,
    json: bool = False,
) -> int:
    """Go the whole way: train on the standard library, look into the heads, price, and answer privately.

    Five small models are trained from scratch, two at a time; one of them collapses and is stopped. The code model that comes with the
    package then continues a held-out prompt between two processes that show each other nothing. The exit code is 1 if the private
    tokens are not the plaintext model's.

    Args:
        output: the folder of everything it writes.
        seed: what weights, data order and prompt are drawn with.
        steps: how many updates each row is trained for; 1200 by default, 30 with --quick.
        tokenizer: "bytes", or "bpe:SIZE", for example "bpe:1024".
        private_architecture: the trained row that answers privately instead, for example "EReg(SM(t)+ScFuFFN)".
        quick: every stage at a size at which nothing is learned; for tests. Its answer comes from the cheapest row that is good enough.
        json: print the summary as one JSON document, and everything else on standard error.
    """
    from hushlm.demo.demo_settings import DemoSettings
    from hushlm.demo.pipeline import run_demo
    from hushlm.report.table import Table, print_json, print_table

    if threading.current_thread() is threading.main_thread():
        # Asked to stop, it takes its processes along.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    make = DemoSettings.quick if quick else DemoSettings.full
    settings = make(output, seed, steps if steps is not None else 30 if quick else 1200, tokenizer, private_architecture)

    def show(table: Table) -> None:
        if json:
            print(table.to_markdown(), file=sys.stderr)
        else:
            print_table(table)

    summary = run_demo(settings, partial(print, flush=True, file=sys.stderr if json else sys.stdout), show)
    if json:
        print_json(summary)
    return 0 if summary["private"]["tokens_equal_plaintext"] else 1
