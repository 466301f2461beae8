"""Answers in the shape of OpenAI's completions: text, log-probabilities and usage of every choice, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.run_session import Question
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.answers import AnswerBuilder, Choice, NamedToken
from hushlm.proxy.completions.schema import CompletionRequest

__all__ = ["CompletionBuilder"]

_KIND = "text_completion"


class CompletionBuilder(AnswerBuilder):
    """Makes OpenAI's documents of what the sessions of one request bring.

    Args:
        request: the request that is answered.
        questions: one for each choice.
        tokenizer: the model's.
        fingerprint: the first digits of the program's fingerprint.
    """

    def __init__(self, request: CompletionRequest, questions: Sequence[Question], tokenizer: Tokenizer, fingerprint: str) -> None:
        choices = [Choice(question, tokenizer, request.stops, request.named) for question in questions]
        super().__init__(request, questions, choices, fingerprint, "cmpl")
        self._echoes = [tokenizer.decode(list(question.prompt_tokens)) if request.echo else "" for question in questions]

    def chunks(self, index: int, answer: TokenAnswer) -> list[dict[str, Any]]:
        """Take a further token of a choice. Returns: its one chunk for a stream."""
        return [self.note(index, answer)]

    def note(self, index: int, answer: TokenAnswer) -> dict[str, Any]:
        """Take a further token of a choice. Returns: its chunk for a stream; the last one of a choice has a finish reason."""
        choice = self._choices[index]
        echo = "" if choice.count else self._echoes[index]
        text, entries = choice.note(answer)
        ended = self.ended(index)
        if ended:
            text += choice.finish()
        finish_reason = choice.finish_reason if ended else None
        choices = [{"index": index, "text": echo + text, "logprobs": _logprobs(entries), "finish_reason": finish_reason}]
        return {**self._head(_KIND), "choices": choices}

    def whole(self) -> dict[str, Any]:
        """The response without a stream."""
        choices = [
            {
                "index": index,
                "text": self._echoes[index] + choice.text,
                "logprobs": _logprobs(choice.entries()),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head(_KIND), "choices": choices, "usage": self._usage()}

    def closing(self) -> dict[str, Any] | None:
        """The chunk after the last token, with the usage; None where that was not asked for."""
        return self._closing(_KIND)


def _logprobs(entries: Sequence[NamedToken] | None) -> dict[str, Any] | None:
    if entries is None:
        return None
    return {
        "tokens": [entry.text for entry in entries],
        "token_logprobs": [entry.logprob_nats for entry in entries],
        "top_logprobs": [entry.likeliest for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }
