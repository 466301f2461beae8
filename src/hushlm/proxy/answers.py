"""What the answers of completions and of chats have in common: text and log-probabilities of each choice, and the usage."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.progress import Progress
from hushlm.private.client.run_session import Question
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.assembly import TextAssembler
from hushlm.proxy.schema import GenerationRequest

__all__ = ["AnswerBuilder", "Choice", "NamedToken"]


@dataclass(frozen=True)
class NamedToken:
    """The log-probability of one token of an answer.

    Attributes:
        text: the token's text; a token that is no text by itself is named by its number, as other servers do.
        logprob_nats: its log-probability over the whole vocabulary.
        likeliest: texts and log-probabilities of the likeliest tokens at its place.
        offset: where its text begins in the answer, in characters.
    """

    text: str
    logprob_nats: float
    likeliest: dict[str, float]
    offset: int


class Choice:
    """One answer to one prompt.

    Args:
        question: what was asked.
        tokenizer: the model's.
        stops: strings that end the text and are no part of it.
        named: how many of the likeliest tokens to name at each place; None without log-probabilities.
        end_ids: numbers of the tokens that do the same.

    Attributes:
        count: how many tokens have come.
        prepared: whether its session uses a prepared answer.
    """

    def __init__(
        self, question: Question, tokenizer: Tokenizer, stops: Sequence[str], named: int | None, end_ids: frozenset[int] = frozenset()
    ) -> None:
        self.count, self.prepared = 0, False
        self._length, self._named, self._tokenizer, self._end_ids = question.new_tokens, named, tokenizer, end_ids
        self._assembler = TextAssembler(tokenizer, stops)
        self._entries: list[NamedToken] = []
        self._at_end_token = False

    @property
    def stopped(self) -> bool:
        """Whether the text has ended of itself."""
        return self._assembler.stopped or self._at_end_token

    @property
    def complete(self) -> bool:
        """Whether all tokens have come."""
        return self.count == self._length

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._assembler.text

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for how the text ended."""
        return "stop" if self.stopped else "length"

    def note(self, answer: TokenAnswer) -> tuple[str, list[NamedToken] | None]:
        """Take a further token. Returns: what may be shown of the text, and the token's log-probabilities where they are wanted."""
        assert answer.token is not None
        self.count += 1
        if answer.token in self._end_ids:
            self._at_end_token = True
            return "", None if self._named is None else []
        offset = self._assembler.settled
        text = self._assembler.push(answer.token)
        if self._named is None:
            return text, None
        assert answer.logits is not None
        logprobs_V = _log_softmax(np.asarray(answer.logits, np.float64))
        likeliest = np.argsort(-logprobs_V, kind="stable")[: self._named]
        named = {self._name(int(token)): float(logprobs_V[token]) for token in likeliest}
        self._entries.append(NamedToken(self._name(answer.token), float(logprobs_V[answer.token]), named, offset))
        return text, self._entries[-1:]

    def finish(self) -> str:
        """The rest of the text, after its last token."""
        return self._assembler.finish()

    def entries(self) -> list[NamedToken] | None:
        """Log-probabilities of the tokens whose text belongs to the answer; None where they are not wanted."""
        if self._named is None:
            return None
        return [entry for entry in self._entries if entry.offset < len(self.text) or not self._assembler.stopped]

    def _name(self, token: int) -> str:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return text if text and "\N{REPLACEMENT CHARACTER}" not in text else f"token_id:{token}"


class AnswerBuilder(ABC):
    """Makes OpenAI's documents of what the sessions of one request bring.

    Args:
        request: the request that is answered.
        questions: one for each choice.
        choices: one for each question.
        fingerprint: the first digits of the program's fingerprint.
        kind: with which the answer's name begins.

    Attributes:
        name: the answer's, in documents and in the log.
    """

    def __init__(
        self,
        request: GenerationRequest,
        questions: Sequence[Question],
        choices: Sequence[Choice],
        fingerprint: str,
        kind: str,
    ) -> None:
        self.name = f"{kind}-{secrets.token_hex(12)}"
        self._asked, self._questions, self._fingerprint = request, questions, fingerprint
        self._created = int(time.time())
        self._choices = choices

    @abstractmethod
    def chunks(self, index: int, answer: TokenAnswer) -> list[dict[str, Any]]:
        """Take a further token of a choice. Returns: its chunks for a stream; the last one of a choice has a finish reason."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The response without a stream."""

    @abstractmethod
    def closing(self) -> dict[str, Any] | None:
        """The chunk after the last token, with the usage; None where that was not asked for."""

    def note_progress(self, index: int, progress: Progress) -> None:
        """Take a report on how far a choice's session is."""
        self._choices[index].prepared = progress.prepared

    def ended(self, index: int) -> bool:
        """Whether a choice's text has ended: of itself, or with its last token."""
        return self._choices[index].stopped or self._choices[index].complete

    def complete(self, index: int) -> bool:
        """Whether a choice has all its tokens."""
        return self._choices[index].complete

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
            "system_fingerprint": self._fingerprint,
        }

    def _closing(self, kind: str) -> dict[str, Any] | None:
        options = self._asked.stream_options
        return {**self._head(kind), "choices": [], "usage": self._usage()} if options and options.include_usage else None

    def _usage(self) -> dict[str, int]:
        """A prompt with several answers is counted once, as OpenAI counts; choices that used a prepared answer, where some did."""
        prompt = sum(len(question.prompt_tokens) for question in self._questions[:: self._asked.n or 1])
        completion = sum(choice.count for choice in self._choices)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        prepared = sum(choice.prepared for choice in self._choices)
        return usage | ({"prepared": prepared} if prepared else {})


def _log_softmax(logits_V: np.ndarray) -> np.ndarray:
    shifted = logits_V - logits_V.max()
    return shifted - np.log(np.exp(shifted).sum())
