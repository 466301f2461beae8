"""Parts of the documentation site that are read from the code, so that they cannot go stale.

mkdocs calls the two functions below. `reference/commands.md` is made from the commands' own parsers; in any page the mark
`<!-- rooms -->` becomes the table of the package's folders, and `<!-- import-rules -->` the contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "hushlm"


def on_files(files: Files, config: Any) -> Files:
    """Add the page of commands."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks in."""
    for mark, table in (("<!-- rooms -->", rooms_table), ("<!-- import-rules -->", import_rules)):
        if mark in markdown:
            markdown = markdown.replace(mark, table())
    return markdown


def commands_page() -> str:
    """Every command with its arguments, from the function's signature and docstring."""
    from hushlm.cli.main import COMMANDS, load_command

    parts = [
        "# Commands",
        "Made from the commands' own parsers; `hushlm COMMAND --help` prints the same. Dashes and underscores in options mean the same, "
        "and `--config FILE` reads any of them from a YAML file. Exit codes: 0 done; 1 it ran and the answer is bad (training diverged, "
        "private tokens differ); 2 a mistake in what was asked, with one sentence that says which; 130 interrupted.",
    ]
    for name in COMMANDS:
        parts.append(_command(name, load_command(name)))
    return "\n\n".join(parts) + "\n"


def _command(name: str, function: Any) -> str:
    described = parse_docstring(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description or "" for parameter in described.params}
    lines = [f"## hushlm {name}", described.short_description or "", described.long_description or ""]
    rows = ["| argument | default | what it is |", "| --- | --- | --- |"]
    for key, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        shown = f"`{key.upper()}`" if required else f"`--{key}`"
        help_text = " ".join(helps.get(key, "").split()).replace("|", r"\|").replace("<", "&lt;")
        rows.append(f"| {shown} | {'required' if required else _default(parameter.default)} | {help_text} |")
    return "\n\n".join([*filter(None, lines), "\n".join(rows)])


def _default(value: Any) -> str:
    if value is None or value is False or value == "":
        return ""
    if hasattr(value, "__dataclass_fields__"):
        kind = type(value)
        return f"[{kind.__name__}](python.md#{kind.__module__}.{kind.__name__})"
    return f"`{value}`"


def rooms_table() -> str:
    """Folders and modules of the package, top layer first, with the first sentence of each one's docstring."""
    layers: list[str] = _contracts()[0]["layers"]
    rows = ["| layer | room | what is in it |", "| --- | --- | --- |"]
    for number, layer in enumerate(layers):
        for room in (name.strip(" ()") for name in layer.replace(":", "|").split("|")):
            rows.append(f"| {len(layers) - number} | `{room}` | {_first_sentence(room)} |")
    return "\n".join(rows)


def _first_sentence(room: str) -> str:
    folder = PACKAGE / room
    sources = [folder / "__init__.py", folder / "main.py"] if folder.is_dir() else [PACKAGE / f"{room}.py"]
    for source in sources:
        if source.exists() and (text := ast.get_docstring(ast.parse(source.read_text()))):
            return " ".join(text.split("\n\n")[0].split()).replace("|", r"\|")
    return ""


def import_rules() -> str:
    """The contracts that import-linter checks, as a list."""
    items = []
    for contract in _contracts():
        items.append(f"- **{contract['name']}.**")
        if contract["type"] == "layers":
            items.append("    " + " > ".join(f"`{layer}`" for layer in contract["layers"]))
        elif contract["type"] == "forbidden":
            forbidden = ", ".join(f"`{name}`" for name in contract["forbidden_modules"])
            sources = contract["source_modules"]
            who = ", ".join(f"`{name}`" for name in sources) if len(sources) <= 4 else "Every other room"
            items.append(f"    {who} may not import {forbidden}.")
    return "\n".join(items)


def _contracts() -> list[dict[str, Any]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
