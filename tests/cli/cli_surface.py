"""The command line as text: commands, their arguments, options, types and defaults.

`python tests/cli/cli_surface.py` writes it to surface.txt; do that when an option is added or changed on purpose.
"""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

from hushlm.cli.main import COMMANDS, load_command
from hushlm.cli.parsing import build_parser

GOLDEN = Path(__file__).with_name("surface.txt")
COMMON = {"help", "config", "print_config"}


def render() -> str:
    """One block a command: arguments first, then options by name."""
    out = io.StringIO()
    for name in COMMANDS:
        parser = build_parser(name, load_command(name))
        actions = [action for action in parser._actions if action.dest not in COMMON]
        print(name, file=out)
        for action in sorted(actions, key=lambda action: (bool(action.option_strings), action.dest)):
            label = " ".join(action.option_strings) or action.dest.upper()
            print(f"  {label}{_value(parser, action)}", file=out)
    return out.getvalue()


def _value(parser: Any, action: Any) -> str:
    if action.nargs == 0:
        return ""
    hint = getattr(action, "_typehint", None)
    if hint is None:
        return ""
    kind = hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
    default = "" if not action.option_strings else f" = {action.default!r}".replace("PosixPath", "Path")
    return f": {kind.replace('pathlib.', '')}{default}"


if __name__ == "__main__":
    GOLDEN.write_text(render())
