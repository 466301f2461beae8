"""What a tokenizer's files say of conversations: the chat template, the special tokens it may name, and the tokens that end an answer.

Hugging Face's tools keep these beside `tokenizer.json`, in files of fixed names; a checkpoint and an export's `client/` folder keep them
under the same names, without anything else that such files may hold (the path of somebody's folder, for one).

chat_template.jinja     the template; it goes before one in tokenizer_config.json
tokenizer_config.json   "chat_template", and special tokens by name: "bos_token", "eos_token", ...
generation_config.json  "eos_token_id", one number or several
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hushlm.files import read_json

__all__ = ["ChatFiles", "read_chat_files"]

TEMPLATE_FILE, TOKENS_FILE, ENDS_FILE = "chat_template.jinja", "tokenizer_config.json", "generation_config.json"

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatFiles:
    """What is known of a tokenizer's conversations.

    Attributes:
        template: the chat template, in Jinja; None for a base model's tokenizer.
        tokens: special tokens by the names that a template uses, such as "bos_token".
        end_ids: numbers of the tokens that end an answer.
    """

    template: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()

    @staticmethod
    def of(template: Any, tokens: Mapping[str, Any], end_ids: Any, source: str) -> ChatFiles:
        """From the values of Hugging Face's files or objects.

        Args:
            template: the template's text, or several by name (a list of {"name", "template"}, or a mapping), of which "default" counts.
            tokens: special tokens by name, each a text or {"content": text}.
            end_ids: a number, several, or None.
            source: what to call it in an error.

        Raises:
            ValueError: one sentence, if one of them is something else.
        """
        if isinstance(template, list) and all(isinstance(entry, dict) and "name" in entry for entry in template):
            template = {entry["name"]: entry.get("template") for entry in template}
        if isinstance(template, dict):
            if "default" not in template:
                raise ValueError(f'{source} has chat templates for special uses only, and none that is called "default": add one.')
            template = template["default"]
        if not (template is None or isinstance(template, str)):
            raise ValueError(f"{source} has a chat template that is no text: write it as one, in Jinja.")
        given = {name: tokens.get(name) for name in _NAMED_TOKENS}
        texts: dict[str, Any] = {
            name: token.get("content") if isinstance(token, dict) else token for name, token in given.items() if token is not None
        }
        ids = [] if end_ids is None else end_ids if isinstance(end_ids, list | tuple) else [end_ids]
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{source} has a special token that is no text: write it as one.")
        if not all(isinstance(number, int) and number >= 0 for number in ids):
            raise ValueError(f'{source} has an "eos_token_id" that is no token\'s number.')
        return ChatFiles(template, texts, tuple(ids))

    def contents(self) -> dict[str, str]:
        """File names and contents, from which `read_chat_files` reads the same again; empty if nothing is known."""
        found = {}
        if self.template is not None:
            found[TEMPLATE_FILE] = self.template
        if self.tokens:
            found[TOKENS_FILE] = json.dumps(dict(self.tokens), indent=1, ensure_ascii=False) + "\n"
        if self.end_ids:
            found[ENDS_FILE] = json.dumps({"eos_token_id": list(self.end_ids)}, indent=1) + "\n"
        return found


def read_chat_files(folder: Path) -> ChatFiles:
    """What the files in a folder say; files that are not there say nothing.

    Raises:
        ValueError: one sentence, if a file is there and cannot be read.
    """
    tokens, ends = _object(folder / TOKENS_FILE), _object(folder / ENDS_FILE)
    template = tokens.get("chat_template")
    if (path := folder / TEMPLATE_FILE).is_file():
        template = path.read_bytes()
        try:
            template = template.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8: convert it.") from None
    return ChatFiles.of(template, tokens, ends.get("eos_token_id"), str(folder))


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object: restore it from a copy, or remove it.")
    return found
