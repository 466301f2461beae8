"""`hushlm COMMAND ...`: finds the command's function, reads its options, and turns the user's mistakes into one sentence.

Every command is one typed function in a module of its own; its docstring is the help. Modules are imported only when their command
runs, so that `hushlm --help` and `hushlm cost` need neither torch nor the two-party engine.

Exit codes: 0 done; 1 it ran and the answer is bad (a diverged training, private tokens that differ); 2 a mistake in what was
asked; 130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hushlm.cli.interrupts import forget_interrupt
from hushlm.cli.sentences import sentence

__all__ = ["COMMANDS", "main", "summaries"]

COMMANDS = {
    "architectures": "hushlm.cli.architectures:architectures",
    "train": "hushlm.cli.train:train",
    "eval": "hushlm.cli.eval:evaluate",
    "entropy": "hushlm.cli.entropy:entropy",
    "cost": "hushlm.cli.cost:cost",
    "cost frontier": "hushlm.cli.cost_frontier:frontier",
    "frontier run": "hushlm.cli.frontier_run:contest",
    "import": "hushlm.cli.import_model:import_model",
    "adapt": "hushlm.cli.adapt:adapt",
    "export": "hushlm.cli.export:export",
    "keys": "hushlm.cli.keys:keys",
    "serve": "hushlm.cli.serve:serve",
    "prepare": "hushlm.cli.prepare:prepare",
    "prepared": "hushlm.cli.prepared:prepared",
    "ask": "hushlm.cli.ask:ask",
    "proxy": "hushlm.cli.proxy:proxy",
    "reproduce": "hushlm.cli.reproduce:reproduce",
    "report": "hushlm.cli.report:report",
    "demo": "hushlm.cli.demo:demo",
    "doctor": "hushlm.cli.doctor:doctor",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: after the program's name; those of the process by default.

    Returns: the exit code, see the module.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt, and the exit code is to be 130
        forget_interrupt()
        print("hushlm: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except MemoryError:
        print("hushlm: There is not enough memory for this: give a smaller input, or a machine with more.", file=sys.stderr)
        return 2
    except (ValueError, OSError, ModuleNotFoundError) as error:
        text = sentence(error)
        if text is None:
            raise
        print(f"hushlm: {text}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # a full disk: this is what the sentence says
            _drop_output()
        return 2


def _prepare_streams() -> None:
    """Outputs that fail no command after its work is done.

    What the terminal's encoding lacks is escaped, and so are names of files that are no text. What goes to an output that the shell has
    closed is dropped.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Nobody takes the output: let the interpreter's own flush at its end write into nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def summaries() -> dict[str, str]:
    """First line of each command's docstring, read from the source: nothing is imported."""
    return {name: _summary(*target.split(":")) for name, target in COMMANDS.items()}


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"hushlm {version('hushlm')}")
        return 0
    name, *options = words
    if options and f"{name} {options[0]}" in COMMANDS:
        # A command of two words.
        name, *options = f"{name} {options[0]}", *options[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"The commands are {', '.join(COMMANDS)}."
        raise ValueError(f"There is no command {name!r}. {hint}")
    # Imported here: reading options costs a tenth of a second that `--version` and the list of commands need not wait for.
    from hushlm.cli.parsing import parse_options

    function = load_command(name)
    result = function(**parse_options(name, function, options))
    return result if isinstance(result, int) else 0


def load_command(name: str) -> Callable[..., Any]:
    """Import the function of a command."""
    module, function = COMMANDS[name].split(":")
    return getattr(importlib.import_module(module), function)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries().items()]
    return (
        "usage: hushlm COMMAND [options]\n\n"
        "Design, train, inspect, price and privately serve language models.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "`hushlm COMMAND --help` describes a command's options. `hushlm --version` prints the version.\n"
    )


def _summary(module: str, function: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


if __name__ == "__main__":
    sys.exit(main())
