"""Answers in the shape of OpenAI's chat completions: the assistant's turn of every choice, whole or as deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.run_session import Question
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.answers import AnswerBuilder, Choice, NamedToken
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.chat.schema import ChatRequest

__all__ = ["ChatBuilder"]

_KIND, _CHUNK_KIND = "chat.completion", "chat.completion.chunk"


class ChatBuilder(AnswerBuilder):
    """Makes OpenAI's documents of what the sessions of one chat request bring.

    Args:
        request: the request that is answered.
        questions: one for each choice.
        tokenizer: the model's.
        chat: the model's way with conversations, which ends answers too.
        fingerprint: the first digits of the program's fingerprint.
    """

    def __init__(
        self, request: ChatRequest, questions: Sequence[Question], tokenizer: Tokenizer, chat: ChatFormat, fingerprint: str
    ) -> None:
        stops = (*request.stops, *chat.stops)
        choices = [Choice(question, tokenizer, stops, request.named, chat.end_ids) for question in questions]
        super().__init__(request, questions, choices, fingerprint, "chatcmpl")

    def chunks(self, index: int, answer: TokenAnswer) -> list[dict[str, Any]]:
        """Take a further token of a choice.

        Returns: the chunks of a stream that it brings: first of all the role, then the text, last of all an empty one that says why the
        answer has ended.
        """
        choice = self._choices[index]
        found = [] if choice.count else [self._chunk(index, {"role": "assistant", "content": ""})]
        text, entries = choice.note(answer)
        ended = self.ended(index)
        if ended:
            text += choice.finish()
        if text or entries:
            found.append(self._chunk(index, {"content": text}, _logprobs(entries)))
        if ended:
            found.append(self._chunk(index, {}, finish_reason=choice.finish_reason))
        return found

    def whole(self) -> dict[str, Any]:
        """The response without a stream."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": _logprobs(choice.entries()),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head(_KIND), "choices": choices, "usage": self._usage()}

    def closing(self) -> dict[str, Any] | None:
        """The chunk after the last token, with the usage; None where that was not asked for."""
        return self._closing(_CHUNK_KIND)

    def _chunk(
        self, index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head(_CHUNK_KIND), "choices": [choice]}


def _logprobs(entries: Sequence[NamedToken] | None) -> dict[str, Any] | None:
    if entries is None:
        return None
    content = [
        _named(entry.text, entry.logprob_nats) | {"top_logprobs": [_named(text, logprob) for text, logprob in entry.likeliest.items()]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _named(text: str, logprob_nats: float) -> dict[str, Any]:
    is_text = not text.startswith("token_id:")
    return {"token": text, "logprob": logprob_nats, "bytes": list(text.encode()) if is_text else None}
