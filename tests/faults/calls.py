"""A sound call of every command, and the options of every command that name a path, found from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hushlm.cli.main import COMMANDS, load_command
from hushlm.cli.parsing import build_parser, is_path_option

__all__ = ["Call", "Places", "path_options", "sound_calls"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Places:
    """Real things that sound calls name.

    Attributes:
        corpus: a folder of text files.
        text: a text file.
        checkpoint: of a model trained for a step.
        export: the folder of its private program.
        keys: for a server and a client.
        vendor: a model as Hugging Face's tools save it.
        questions: a batch for `hushlm ask`.
        scratch: an empty folder for what the calls write.
    """

    corpus: Path
    text: Path
    checkpoint: Path
    export: Path
    keys: Path
    vendor: Path
    questions: Path
    scratch: Path


@dataclass(frozen=True)
class Call:
    """A sound call of a command.

    Attributes:
        command: its name.
        positional: values of the positional arguments, by name, in order.
        options: values of options, by name with underscores; None is a flag.
        without: options that go when another one is tried, by the name of that one.
    """

    command: str
    positional: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str | None] = field(default_factory=dict)
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def words(self, option: str | None = None, value: str = "") -> list[str]:
        """The command line, with one value replaced or added."""
        positional = {name: value if name == option else given for name, given in self.positional.items()}
        left_out = self.without.get(option or "", ())
        options = {name: given for name, given in self.options.items() if name != option and name not in left_out}
        if option is not None and option not in positional:
            options[option] = value
        words = [*self.command.split(), *positional.values()]
        for name, given in options.items():
            words += [f"--{name}"] if given is None else [f"--{name}={given}"]
        return words

    def sound(self, option: str) -> Path | None:
        """The value of an option in the sound call."""
        value = self.positional.get(option) or self.options.get(option)
        return Path(value) if value else None


def path_options(command: str) -> list[str]:
    """Names of the options and arguments of a command that name a file or a folder."""
    parser = build_parser(command, load_command(command))
    return [action.dest for action in parser._actions if is_path_option(action) and action.dest is not argparse.SUPPRESS]


def sound_calls(places: Places) -> list[Call]:
    """At least one for every command; each ends within a second or so."""
    scratch, export = places.scratch, places.export
    small = {"shape.layers": "1", "shape.heads": "1", "shape.width": "8", "shape.context": "16", "training.steps": "1"}
    small |= {"training.batch": "2", "training.evaluation_batches": "1", "training.threads": "1", "progress": "none"}
    drawn = {"from_results": None, "preset": "micro", "results": str(scratch / "results")}
    client = {"model": str(export / "client"), "keys": str(places.keys)}
    calls = [
        Call("architectures"),
        Call("doctor"),
        Call(
            "train",
            options=small
            | {"data.corpus": str(places.corpus), "data.cache": str(scratch / "cache"), "output": str(scratch / "trained")}
            | {"training.teacher": str(places.checkpoint), "data.tokenizer": "bytes"},
        ),
        Call("eval", {"checkpoint": str(places.checkpoint)}, {"corpus": str(places.corpus), "batches": "1"}),
        Call(
            "entropy",
            {"checkpoint": str(places.checkpoint)},
            {"text": str(places.text), "batches": "1", "output": str(scratch / "figures")},
            {"corpus": ("text",)},
        ),
        Call("cost", {"architecture": "SM2+R"}, {"layers": "2", "heads": "2", "width": "64", "context": "16", "vocab": "256"}),
        Call(
            "cost frontier",
            options={
                "budget": "1GB",
                "architectures": "SM2+R",
                "layers": "2",
                "widths": "64",
                "heads": "2",
                "output": str(scratch / "budget"),
            }
            | {"checkpoints": str(places.checkpoint), "results": str(ROOT / "results/kernels-micro.json")},
        ),
        Call("frontier run", options=drawn | {"pages": str(scratch / "frontier")}),
        Call("import", {"model": str(places.vendor), "output": str(scratch / "imported")}, {"text": str(places.text)}),
        Call(
            "adapt",
            {"checkpoint": str(places.checkpoint), "output": str(scratch / "adapted"), "architecture": "SM2+Q"},
            {"text": str(places.corpus), "cache": str(scratch / "cache"), "fit_tokens": "128", "progress": "none"},
        ),
        Call("export", {"checkpoint": str(places.checkpoint), "output": str(scratch / "program")}),
        Call("keys", {"action": "show", "folder": str(places.keys)}),
        Call("keys", {"action": "create", "folder": str(scratch / "keys")}, {"host": "127.0.0.1"}),
        Call("keys", {"action": "renew", "folder": str(places.keys)}, {"name": "client"}),
        Call(
            "serve",
            {"model": str(export / "server")},
            {"keys": str(places.keys), "listen": "127.0.0.1:0", "prepare_folder": str(scratch / "shelf")},
        ),
        Call(
            "prepare",
            {"model": str(export / "client")},
            {"keys": str(places.keys), "server": "127.0.0.1:1", "connect_seconds": "1", "tokens_each": "1"}
            | {"prepared_folder": str(scratch / "shelf")},
        ),
        Call("prepared", {"action": "list"}, {"keys": str(places.keys)}),
        Call("prepared", {"action": "list"}, {"server_folder": str(scratch / "shelf")}),
        Call("ask", {"prompt": "alpha"}, {"mode": "plain", "model": str(places.checkpoint), "new_tokens": "1"}),
        Call("ask", {"prompt": "alpha"}, client | {"server": "127.0.0.1:1", "connect_seconds": "1", "new_tokens": "1"}),
        Call(
            "ask",
            options={"mode": "plain", "model": str(places.checkpoint), "new_tokens": "1"}
            | {"batch": str(places.questions), "output": str(scratch / "answers.jsonl")},
        ),
        Call("proxy", options=client | {"listen": "127.0.0.1:0", "api_key_file": str(scratch / "api-key")}),
        Call("reproduce", {"what": "fig2"}, drawn | {"pages": str(scratch / "pages")}),
        Call("report", {"runs": str(places.checkpoint)}, {"output": str(scratch / "report.html")}),
        Call("demo", options={"output": str(scratch / "demo"), "quick": None}),
    ]
    missing = COMMANDS.keys() - {call.command for call in calls}
    assert not missing, f"give {missing} a sound call here"
    return calls
