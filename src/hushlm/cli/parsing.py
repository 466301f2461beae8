"""Options of a command from its function's signature and docstring, with jsonargparse.

A parameter without a default is positional, and may be repeated if its type is a list; so is one with a default before a `*`, and may be
left out; a `bool` that is False by default is a flag; a dataclass gives dotted options; an option that may be a list may be given several
times.
`--config x.yaml` sets any of them, later options override it. Dashes and underscores in names mean the same.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import inspect
import json
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

__all__ = ["build_parser", "is_path_option", "parse_options"]


MOST_SETTINGS_BYTES = 1_000_000
"""A file of settings has some thousand bytes; more is another file given by mistake."""

_MOST_NESTED, _MOST_VALUES = 1000, 100_000
"""How deep settings may be nested, and how many values they may have with all references written out. The YAML reader's own stack
overflows at some 25,000 levels, and takes the process with it."""


class _Formatter(DefaultHelpFormatter):
    """Keeps the paragraphs of a docstring."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


class _Parser(ArgumentParser):
    """Raises ValueError with one sentence where argparse would print its usage."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(_sentence(message, self)) from ex

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        # jsonargparse shows classes by their repr.
        return re.sub(r"<class\s+'([\w.]+)'>", lambda match: match[1].rpartition(".")[2].lower(), super().format_help(formatter))


def build_parser(name: str, function: Callable[..., Any]) -> ArgumentParser:
    """The parser of a command.

    Args:
        name: of the command.
        function: its parameters become options, its docstring the help.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [parameter.name.upper() for parameter in parameters if parameter.default is inspect.Parameter.empty]
    starred = any(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    before_star = [parameter for parameter in parameters if starred and parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    omissible = [parameter for parameter in before_star if parameter.default is not inspect.Parameter.empty]
    positional += [f"[{parameter.name.upper()}]" for parameter in omissible]
    described = parse_docstring(inspect.getdoc(function) or "")
    parser = _Parser(
        prog=f"hushlm {name}",
        usage=" ".join(["hushlm", name, *positional, "[options]"]),
        description="\n\n".join(filter(None, (described.short_description, described.long_description))),
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,  # a mistyped option is told, and never taken as another one
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    types = get_type_hints(function)
    flags = {parameter.name for parameter in parameters if types.get(parameter.name) is bool and parameter.default is False}
    helps = {parameter.arg_name: parameter.description for parameter in described.params}
    for parameter in omissible:
        kind, described_as = types[parameter.name], helps.get(parameter.name)
        parser.add_argument(parameter.name, nargs="?", type=kind, default=parameter.default, help=described_as)
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    several = [required_name for required_name in required if get_origin(types[required_name]) is list]
    for parameter_name in several:
        (kind,) = get_args(types[parameter_name])
        parser.add_argument(parameter_name, nargs="+", type=kind, help=helps.get(parameter_name))
    skipped: set[str | int] = {*flags, *several, *(parameter.name for parameter in omissible)}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skipped)
    for parameter in parameters:
        if parameter.name in flags:
            parser.add_argument(f"--{parameter.name}", action="store_true", help=helps.get(parameter.name))
    return parser


def is_path_option(action: argparse.Action) -> bool:
    """Whether an option names a file or a folder: by its type, or, where it can also be something else, by its help."""
    kind = str(getattr(action, "_typehint", None) or action.type)
    if "Path" in kind:
        return True
    text = str(action.help or "")
    return kind in ("None", "<class 'str'>", "str | None") and re.search(r"\b(folders?|files?)\b|\.json\b", text) is not None


def parse_options(name: str, function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments for a command's function.

    Raises:
        ValueError: one sentence, for an unknown option, a value of the wrong type, or an unreadable configuration file.
        SystemExit: with 0, after `--help`.
    """
    parser = build_parser(name, function)
    underscored = _underscored(words)
    _check_named_paths(parser, underscored)
    _check_nesting(underscored)
    try:
        values = parser.instantiate(parser.parse_args(_gathered(parser, underscored)))
    except argparse.ArgumentError as error:
        raise ValueError(_sentence(str(error), parser)) from error
    except RecursionError:
        raise ValueError("A configuration file is nested too deeply to be read.") from None
    for action in parser._actions:
        value = values.get(action.dest) if is_path_option(action) else None
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str | Path):
                _check_path(_option(action.dest, parser), str(path))
    # By name, not by iteration: the namespace stores names like `keys`, which are its own methods' too, under others.
    return {parameter: values[parameter] for parameter in inspect.signature(function).parameters}


def _check_named_paths(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Look at the paths on the command line before anything is read from them: opening a pipe would wait for ever."""
    actions = {option: action for action in parser._actions for option in action.option_strings if is_path_option(action)}
    for position, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in actions and (equals or position + 1 < len(words)):
            value = value if equals else words[position + 1]
            # Options without a type of their own are read as settings while the line is parsed.
            is_settings = getattr(actions[option], "_typehint", None) is None and actions[option].type is None
            _check_path(option, value, MOST_SETTINGS_BYTES if is_settings else None)


def _check_nesting(words: Sequence[str]) -> None:
    """Look at all that is about to be read as YAML: the words of the command line, a prompt among them, and files of settings."""
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        _check_yaml(option if equals or before.startswith("--") else "An argument", value)
        if option == "--config" and (equals or before == "--config") and Path(value).is_file():
            _check_yaml(option, Path(value).read_bytes())


def _check_yaml(what: str, text: str | bytes) -> None:
    """Raises: ValueError, if a text is nested too deeply for the YAML reader, or grows out of bounds by its references."""
    if len(text) < 100:
        return
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = [(None, 0)]
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            size = 0
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, 0))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = opened.pop()
                sizes[anchor or ""] = size
            elif isinstance(event, yaml.NodeEvent):
                size = sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
            anchor, before = opened[-1]
            opened[-1] = anchor, before + size
            if len(opened) > _MOST_NESTED or before + size > _MOST_VALUES:
                raise ValueError(
                    f"{what}: this is nested too deeply, or too large, to be read as settings; a prompt like that goes to standard input "
                    "(-)."
                )
    except (yaml.YAMLError, UnicodeError):
        return  # the parser says what is wrong with it


def _check_path(option: str, value: str, most_bytes: int | None = None) -> None:
    """Refuse what no command can read or write to an end.

    Raises:
        ValueError: if the value names a pipe, a socket or a device, or a file larger than `most_bytes`; or cannot be a path.
    """
    if "\0" in value:
        raise ValueError(f"{option}: a path holds no null byte.")
    try:
        found = Path(value).expanduser().stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{option}: {value} is a symbolic link that leads back to itself.") from None
        return  # nothing there, or not to be looked at: the command says which
    except RuntimeError:
        return  # a home folder that nobody knows
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{option}: {value} is a pipe or a device; give a file or a folder.")
    if most_bytes is not None and found.st_size > most_bytes:
        raise ValueError(f"{option}: {value} has {found.st_size:,} bytes, too many for a file of settings.")


def _underscored(words: Sequence[str]) -> list[str]:
    """`--new-tokens=1` as `--new_tokens=1`; values, and what follows `--`, are left alone."""
    end = words.index("--") if "--" in words else len(words)
    return [_option_underscored(word) if word.startswith("--") else word for word in words[:end]] + list(words[end:])


def _gathered(parser: ArgumentParser, words: Sequence[str]) -> list[str]:
    """An option that may be a list, and is given several times, as one list in the place of its first."""
    lists = {option for action in parser._actions if "list[" in str(getattr(action, "_typehint", "")) for option in action.option_strings}
    values: dict[str, list[str]] = {}
    left: list[str] = []
    position, end = 0, list(words).index("--") if "--" in words else len(words)
    while position < end:
        option, equals, value = words[position].partition("=")
        if option not in lists or not (equals or position + 1 < end):
            left.append(words[position])
        else:
            if not equals:
                position += 1
                value = words[position]
            if option not in values:
                left.append(option)
            values.setdefault(option, []).append(value)
        position += 1
    gathered: list[str] = []
    for word in left:
        given = values.get(word)
        gathered += [word] if given is None else [word, given[0] if len(given) == 1 else json.dumps(given, ensure_ascii=False)]
    return gathered + list(words[end:])


def _option_underscored(word: str) -> str:
    option, equals, value = word[2:].partition("=")
    return "--" + option.replace("-", "_") + equals + value


def _sentence(message: str, parser: ArgumentParser) -> str:
    """argparse's and jsonargparse's messages as one sentence each."""
    text = re.sub(r"\s+", " ", message).strip()
    command = parser.prog.removeprefix("hushlm ")
    if found := re.match(r"unrecognized arguments: (.*)", text, re.IGNORECASE):
        word = found[1].split()[0]
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(word.partition("=")[0], known, n=2)
        if word.startswith("-"):
            hint = f"did you mean {' or '.join(near)}?" if near else f"`{parser.prog} --help` lists the options."
            return f"{command} has no option {word}: {hint}"
        return f"{command} does not know what to do with {word!r}: `{parser.prog} --help` shows its arguments."
    if found := re.match(r"the following arguments are required: (.*)", text):
        return f"{command} needs {found[1].upper()}: `{parser.prog} --help` shows its arguments."
    if found := re.match(r"argument (-\S+): expected (.*)", text):
        return f"{found[1].partition('/')[0]} needs {found[2].replace('argument', 'value')}."
    if found := re.match(r"Problems parsing config: (.*)", text):
        where = found[1].replace('in "<unicode string>", ', "")
        return f"--config: this is not YAML, {where}"
    if "surrogates not allowed" in text:
        found = re.search(r"^(?:Parser key )?\W*([\w.]+)", text)
        return f"{_option(found[1], parser) if found else command}: this is not text in UTF-8; rename the file, or convert the text."
    if found := re.search(r"""(?:Parser key "([\w.]+)"|^(\S+)).*Unable to load config ['"](.*?)['"]""", text):
        return f"{_option((found[1] or found[2]).strip(':-'), parser)}: {found[3]} cannot be read as a file of settings."
    if found := re.search(r'Parser key "([\w.]+)":? (.*)', text):
        return f"{_option(found[1], parser)}: {_plain(found[2])}"
    return _plain(text)


def _option(key: str, parser: ArgumentParser) -> str:
    known = {option for action in parser._actions for option in action.option_strings}
    return f"--{key}" if f"--{key}" in known else key.upper()


def _plain(text: str) -> str:
    text = re.sub(r"<class '([\w.]+)'>", lambda match: match[1].rpartition(".")[2].lower(), text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    return re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"expected \1, got \2", text)
