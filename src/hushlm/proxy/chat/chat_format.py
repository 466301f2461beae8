"""How one model holds conversations: its template, its control tokens, and what ends its answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hushlm.data.chat_files import ChatFiles, read_chat_files
from hushlm.data.tokenizer import Tokenizer, separator_id
from hushlm.proxy.chat.guarded_encoder import GuardedEncoder
from hushlm.proxy.chat.template import PLAIN_STOPS, PLAIN_TEMPLATE, ChatTemplate, Turn

__all__ = ["ChatFormat", "chat_format"]

_ANSWER = "answer"
"""An answer that no template writes itself, to see what a template puts behind answers."""


@dataclass(frozen=True)
class ChatFormat:
    """A model's way with conversations.

    Attributes:
        template: writes a conversation as one text.
        encoder: makes token ids of it.
        end_ids: numbers of the tokens that end an answer and are no part of it.
        stops: strings that do.
    """

    template: ChatTemplate
    encoder: GuardedEncoder
    end_ids: frozenset[int]
    stops: tuple[str, ...] = ()

    @staticmethod
    def of(tokenizer: Tokenizer, files: ChatFiles = ChatFiles()) -> ChatFormat:
        """The format of a tokenizer and its files; of a base model's, which have no template, the plain one.

        Answers end with: the tokens that the files name for it ("eos_token", "eos_token_id"), the token between documents, and the control
        token that the template itself puts behind an earlier answer.

        Raises:
            ValueError: one sentence, if the template is none.
        """
        ends = {number for number in files.end_ids if tokenizer.id_to_token(number) is not None}
        if (eos := tokenizer.token_to_id(files.tokens.get("eos_token", ""))) is not None:
            ends.add(eos)
        with suppress(ValueError):  # a vocabulary without a token between documents
            ends.add(separator_id(tokenizer))
        template = ChatTemplate(PLAIN_TEMPLATE if files.template is None else files.template, files.tokens)
        encoder = GuardedEncoder(tokenizer, files.tokens.values(), ends)
        if (turn_end := _turn_end(template, encoder)) is not None:
            ends.add(turn_end)
        return ChatFormat(template, encoder, frozenset(ends), PLAIN_STOPS if files.template is None else ())

    def encode(self, turns: Sequence[Turn], context: int) -> tuple[list[int], bool]:
        """The prompt of a conversation, to where the assistant's next turn begins.

        Returns: its token ids, or more than `context` of its end; and whether these are all.

        Raises:
            ValueError: one sentence, if the template refuses the conversation, or a text cannot be encoded.
        """
        guarded = [turn | {"content": self.encoder.guard(turn["content"], turn["role"] == "assistant")} for turn in turns]
        return self.encoder.encode(self.template.render(guarded), context)


def chat_format(folder: Path, tokenizer: Tokenizer, choice: str | None = None) -> ChatFormat | None:
    """The format of an exported model.

    Args:
        folder: the export's `client/`.
        tokenizer: the model's.
        choice: "off"; "plain"; the path of a template; or None for the export's own, which is the plain one where it has none.

    Returns: None for "off".

    Raises:
        ValueError: one sentence, if there is no such file, or the template is none.
    """
    files = read_chat_files(folder)
    if choice == "off":
        return None
    if choice == "plain":
        return ChatFormat.of(tokenizer, ChatFiles(None, files.tokens, files.end_ids))
    if choice is not None:
        path = Path(choice).expanduser()
        if not path.is_file():
            raise ValueError(f"--chat-template: there is no file {choice}; write plain, off, or the path of a Jinja template.")
        try:
            template = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"--chat-template: {choice} is not UTF-8: convert it.") from None
        files = ChatFiles(template, files.tokens, files.end_ids)
    return ChatFormat.of(tokenizer, files)


def _turn_end(template: ChatTemplate, encoder: GuardedEncoder) -> int | None:
    """The control token behind an earlier answer, if the template has one."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        rendered = template.render(turns, generation=False)
    except ValueError:  # a template that refuses this conversation ends no answer of it
        return None
    return encoder.control_token(rendered.rpartition(_ANSWER)[2].lstrip())
