"""Answers in OpenAI's shape: text, log-probabilities and usage of every choice, whole or piece by piece."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.progress import Progress
from hushlm.private.client.run_session import Question
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.assembly import TextAssembler
from hushlm.proxy.schema import CompletionRequest

__all__ = ["CompletionBuilder"]


class CompletionBuilder:
    """Makes OpenAI's documents of what the sessions of one request bring.

    Args:
        request: the request that is answered.
        questions: one for each choice.
        tokenizer: the model's.
        fingerprint: the first digits of the program's fingerprint.
    """

    def __init__(self, request: CompletionRequest, questions: Sequence[Question], tokenizer: Tokenizer, fingerprint: str) -> None:
        self.name = f"cmpl-{secrets.token_hex(12)}"
        self._request, self._questions, self._fingerprint = request, questions, fingerprint
        self._created = int(time.time())
        self._choices = [_Choice(request, question, tokenizer) for question in questions]

    def note(self, index: int, answer: TokenAnswer) -> dict[str, Any]:
        """Take a further token of a choice. Returns: its chunk for a stream; the last one of a choice has a finish reason."""
        choice = self._choices[index]
        text, logprobs = choice.note(answer)
        ended = choice.stopped or choice.complete
        if ended:
            text += choice.finish()
        return {
            **self._head(),
            "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish_reason if ended else None}],
        }

    def note_progress(self, index: int, progress: Progress) -> None:
        """Take a report on how far a choice's session is."""
        self._choices[index].prepared = progress.prepared

    def ended(self, index: int) -> bool:
        """Whether a choice's text has ended: by a stop string, or with its last token."""
        return self._choices[index].stopped or self._choices[index].complete

    def complete(self, index: int) -> bool:
        """Whether a choice has all its tokens."""
        return self._choices[index].complete

    def whole(self) -> dict[str, Any]:
        """The response without a stream."""
        choices = [
            {"index": index, "text": choice.echo + choice.text, "logprobs": choice.logprobs(), "finish_reason": choice.finish_reason}
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head(), "choices": choices, "usage": self._usage()}

    def closing(self) -> dict[str, Any] | None:
        """The chunk after the last token, with the usage; None where that was not asked for."""
        options = self._request.stream_options
        return {**self._head(), "choices": [], "usage": self._usage()} if options and options.include_usage else None

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "text_completion",
            "created": self._created,
            "model": self._request.model,
            "system_fingerprint": self._fingerprint,
        }

    def _usage(self) -> dict[str, int]:
        """A prompt with several answers is counted once, as OpenAI counts; choices that used a prepared answer, where some did."""
        prompt = sum(len(question.prompt_tokens) for question in self._questions[:: self._request.n or 1])
        completion = sum(choice.count for choice in self._choices)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        prepared = sum(choice.prepared for choice in self._choices)
        return usage | ({"prepared": prepared} if prepared else {})


class _Choice:
    """One answer to one prompt."""

    def __init__(self, request: CompletionRequest, question: Question, tokenizer: Tokenizer) -> None:
        self.echo = tokenizer.decode(list(question.prompt_tokens)) if request.echo else ""
        self.count, self.prepared = 0, False
        self._length, self._named, self._tokenizer = question.new_tokens, request.logprobs, tokenizer
        self._assembler = TextAssembler(tokenizer, request.stops)
        self._entries: list[tuple[str, float, dict[str, float], int]] = []

    @property
    def stopped(self) -> bool:
        return self._assembler.stopped

    @property
    def complete(self) -> bool:
        return self.count == self._length

    @property
    def text(self) -> str:
        return self._assembler.text

    @property
    def finish_reason(self) -> str:
        return "stop" if self._assembler.stopped else "length"

    def note(self, answer: TokenAnswer) -> tuple[str, dict[str, Any] | None]:
        """Returns: what may be shown of the text, and the token's log-probabilities where they are wanted."""
        assert answer.token is not None
        offset = self._assembler.settled
        text = ("" if self.count else self.echo) + self._assembler.push(answer.token)
        self.count += 1
        if self._named is None:
            return text, None
        assert answer.logits is not None
        logprobs_V = _log_softmax(np.asarray(answer.logits, np.float64))
        likeliest = np.argsort(-logprobs_V, kind="stable")[: self._named]
        named = {self._name(int(token)): float(logprobs_V[token]) for token in likeliest}
        self._entries.append((self._name(answer.token), float(logprobs_V[answer.token]), named, offset))
        return text, _logprobs(self._entries[-1:])

    def finish(self) -> str:
        return self._assembler.finish()

    def logprobs(self) -> dict[str, Any] | None:
        """Log-probabilities of the tokens whose text belongs to the answer."""
        if self._named is None:
            return None
        return _logprobs([entry for entry in self._entries if entry[3] < len(self.text) or not self._assembler.stopped])

    def _name(self, token: int) -> str:
        """Its text; tokens that are no text on their own are named by number, as other servers do."""
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return text if text and "\N{REPLACEMENT CHARACTER}" not in text else f"token_id:{token}"


def _log_softmax(logits_V: np.ndarray) -> np.ndarray:
    shifted = logits_V - logits_V.max()
    return shifted - np.log(np.exp(shifted).sum())


def _logprobs(entries: Sequence[tuple[str, float, dict[str, float], int]]) -> dict[str, Any]:
    tokens, chosen, named, offsets = zip(*entries, strict=True) if entries else ((), (), (), ())
    return {"tokens": list(tokens), "token_logprobs": list(chosen), "top_logprobs": list(named), "text_offset": list(offsets)}
