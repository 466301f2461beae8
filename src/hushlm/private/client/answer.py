"""The answer to a question, however it was computed: between two parties, simulated in one process, or by the plain checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.progress import OnProgress, Progress
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.token_answer import StepTraffic, TokenAnswer, traffic_by

__all__ = ["AnswerCollector", "AnswerMode", "PrivateAnswer", "traffic_fields"]

AnswerMode = Literal["plain", "simulate", "two-party"]


@dataclass(frozen=True)
class PrivateAnswer:
    """A whole answer. Where nothing is sent (`mode` "plain" and "simulate") the traffic, the set-up and the expectation are zero.

    Attributes:
        prompt_tokens: token ids of the prompt, as they were asked (P,).
        tokens: ids of the generated tokens (N,).
        text: the text of the generated tokens.
        answers: each token with what was revealed of it and what it moved (N,); empty for "plain".
        set_up: what opening the session moved: keys and base oblivious transfers, the same for any prompt.
        query: what the question itself moved.
        expected_bytes: what the cost model expected the question to move, both directions together.
        set_up_seconds: time from the question to a ready session: attempts and queue, processes, handshake, engine.
        query_seconds: time from there to the last token.
        prompt_text: the text of `prompt_tokens`, which is shorter than what was typed if the prompt was truncated.
        reveal: what the client learned of each step.
        mode: how the answer was computed.
        prepared: whether a prepared answer was used up for it; what preparing it moved is not counted here.
        candidate: the likeliest of the candidates, as it was given; None for a question without any.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    answers: tuple[TokenAnswer, ...]
    set_up: Traffic
    query: Traffic
    expected_bytes: int
    set_up_seconds: float
    query_seconds: float
    prompt_text: str = ""
    reveal: RevealPolicy = RevealPolicy()
    mode: AnswerMode = "two-party"
    prepared: bool = False
    candidate: str | None = None

    @property
    def was_sent(self) -> bool:
        """Whether anything crossed a link between two parties."""
        return self.mode == "two-party"

    def to_dict(self) -> dict[str, Any]:
        """The document of `hushlm ask --json`: plain JSON values, None for what a mode does not have."""
        sent = self.was_sent
        return {
            "mode": self.mode,
            "prepared": self.prepared,
            "reveal": str(self.reveal),
            "prompt_text": self.prompt_text,
            "prompt_tokens": len(self.prompt_tokens),
            "text": self.text,
            "candidate": self.candidate,
            "tokens": list(self.tokens),
            "answers": [_revealed(answer) for answer in self.answers],
            **traffic_fields(self.query if sent else None),
            "expected_bytes": self.expected_bytes if sent else None,
            "seconds": round(self.query_seconds, 3),
            "by_operation": self._traffic_by(lambda step: step.name) if sent else None,
            "by_layer": self._traffic_by(lambda step: "outside" if step.layer is None else str(step.layer)) if sent else None,
            "set_up": {**traffic_fields(self.set_up), "seconds": round(self.set_up_seconds, 3)} if sent else None,
        }

    def _traffic_by(self, key: Callable[[StepTraffic], str]) -> dict[str, dict[str, Any]]:
        sums = traffic_by(self.answers, key)
        return {name: {**traffic_fields(moved), "seconds": round(moved.seconds, 3)} for name, moved in sums.items()}


class AnswerCollector:
    """Collects what a session reports, and makes the answer of it.

    Args:
        on_progress: called with each report of progress.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress, self._start = on_progress, time.perf_counter()
        self._ready: Progress | None = None
        self._answers: list[TokenAnswer] = []

    def note(self, item: TokenAnswer | Progress) -> None:
        """Take one report of the session."""
        if isinstance(item, TokenAnswer):
            self._answers.append(item)
            return
        if item.phase == "set-up" and item.step == item.steps:
            self._ready = item
        if self._on_progress is not None:
            self._on_progress(item)

    def answer(self, prompt: Sequence[int], tokenizer: Tokenizer, reveal: RevealPolicy) -> PrivateAnswer:
        """The answer, once the session has ended well."""
        assert self._ready is not None
        ids = [answer.token for answer in self._answers if answer.token is not None]
        return PrivateAnswer(
            prompt_tokens=tuple(prompt),
            tokens=tuple(ids),
            text=tokenizer.decode(ids),
            answers=tuple(self._answers),
            set_up=self._ready.traffic,
            query=sum((answer.traffic for answer in self._answers), Traffic()),
            expected_bytes=self._ready.expected_bytes,
            set_up_seconds=self._ready.seconds,
            query_seconds=time.perf_counter() - self._start - self._ready.seconds,
            prompt_text=tokenizer.decode(list(prompt)),
            reveal=reveal,
            prepared=self._ready.prepared,
        )


def traffic_fields(traffic: Traffic | None) -> dict[str, int | None]:
    """Traffic as the client saw it, as JSON names it; None for each field where nothing was sent."""
    if traffic is None:
        return {"bytes_client_to_server": None, "bytes_server_to_client": None, "messages": None}
    return {
        "bytes_client_to_server": traffic.sent_bytes,
        "bytes_server_to_client": traffic.received_bytes,
        "messages": traffic.sent_messages + traffic.received_messages,
    }


def _revealed(answer: TokenAnswer) -> dict[str, Any]:
    logits = None if answer.logits is None else [float(value) for value in answer.logits]
    return {"token": answer.token, "top": answer.top, "logits": logits}
