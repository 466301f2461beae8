"""Chat templates: Jinja programs that write a conversation as one text, run in Jinja's sandbox.

The Jinja library comes with torch, so it adds nothing to an installation; transformers, whose renderer is the reference, would add
itself and five more packages to a client that needs nothing else of it. What transformers offers to templates beside Jinja (three
functions, loop controls) is offered here too, and a test compares both on the same templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hushlm.private.session.messages import printable

__all__ = ["PLAIN_STOPS", "PLAIN_TEMPLATE", "ChatTemplate", "Turn"]

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content + '\\n\\n' }}
{%- else -%}
{{ message.role | capitalize + ': ' + message.content + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ 'Assistant:' }}
{%- endif -%}
"""
"""For a model that was trained on no conversations: a script of two speakers, which any text model goes on with."""

PLAIN_STOPS = ("\nUser:", "\nSystem:")
"""Where the plain template's next turn would begin, which ends the answer: a base model goes on to write the user's part as well."""

Turn = dict[str, str]
"""{"role": "system", "user" or "assistant", "content": text}."""


class ChatTemplate:
    """A chat template, ready to render.

    Args:
        source: the template, in Jinja.
        tokens: what it may name beside the messages, such as "bos_token".

    Raises:
        ValueError: one sentence, if the source is no template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] = {}) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
            raise ValueError(f"The chat template is not one that Jinja can read: {_clause(error)}{line}.") from None

    def render(self, turns: Sequence[Turn], generation: bool = True) -> str:
        """The conversation as one text.

        Args:
            turns: the conversation.
            generation: whether the text goes on to where the assistant's next turn begins.

        Raises:
            ValueError: one sentence, if the template refuses the conversation, or fails on it.
        """
        try:
            return self._template.render(
                messages=[dict(turn) for turn in turns], tools=None, documents=None, add_generation_prompt=generation, **self._tokens
            )
        except SecurityError as error:
            raise ValueError(f"The model's chat template does what no template may: {_clause(error)}.") from None
        except TemplateError as error:
            raise ValueError(f"The model's chat template refuses this conversation: {_clause(error)}.") from None
        except Exception as error:  # a template is a program, and may add a text to a number
            raise ValueError(f"The model's chat template fails on this conversation: {type(error).__name__}, {_clause(error)}.") from None


def _clause(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300].rstrip(".") or "it does not say why"


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own filter escapes what is special in HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
