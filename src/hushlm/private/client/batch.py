"""Many questions from a file: answers in the order of its lines, each on disk before the next is asked, so that a broken batch goes on.

Input and output are JSON Lines. A line that cannot be asked is answered by an `error`, and the others go on; a session that breaks ends the
batch, for nobody but the user may ask again what was sent before. Every line of the output has a `key`, a hash of what was asked, how, and
of which model: a further call skips what is answered, and refuses what has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hushlm.data.tokenizer import Tokenizer
from hushlm.files import one_writer
from hushlm.private.client.answer import PrivateAnswer
from hushlm.private.client.candidates import candidate_tokens
from hushlm.private.client.progress import OnProgress
from hushlm.private.client.prompts import encode_prompt
from hushlm.private.program.description import MOST_CANDIDATES, RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.private.session.messages import SessionError, UnaskableError

__all__ = ["Asker", "BatchOptions", "BatchReport", "run_batch"]

KEY_CHARACTERS = 16


class Asker(Protocol):
    """Whoever answers: a client and its server, the program in the clear, or the checkpoint.

    Attributes:
        tokenizer: the model's.
        context: how many tokens it reads and writes at most.
        identity: of the model, in hexadecimal.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def ask(
        self, prompt: str, new_tokens: int, reveal: RevealPolicy, truncate: bool, on_progress: OnProgress | None, sampling: Sampling
    ) -> PrivateAnswer:
        """Continue a prompt, as `Client.ask`."""

    def score(self, prompt: str, candidates: Sequence[str], truncate: bool, on_progress: OnProgress | None) -> PrivateAnswer:
        """Choose one of the candidates, as `Client.score`."""


@dataclass(frozen=True)
class BatchOptions:
    """What holds for every line that does not say otherwise.

    Attributes:
        mode: how questions are answered, as it stands in the answers.
        new_tokens: how many tokens a line without candidates asks for.
        candidates: of lines that have neither candidates nor a number of tokens; None for no such.
        reveal, sampling, truncate: as those of `Client.ask`.
    """

    mode: str
    new_tokens: int
    candidates: tuple[str, ...] | None = None
    reveal: RevealPolicy = RevealPolicy()
    sampling: Sampling = Sampling()
    truncate: bool = False


@dataclass(frozen=True)
class BatchReport:
    """Where a batch is.

    Attributes:
        lines: of the input.
        answered: of them, those that have a line of output, errors among them.
        errors: those of them that could not be asked.
        kept: how many were answered before this call.
        expected: answers that name what was expected.
        right: those of them that are the expected one.
    """

    lines: int
    answered: int = 0
    errors: int = 0
    kept: int = 0
    expected: int = 0
    right: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The document of `hushlm ask --batch --json`."""
        return asdict(self)

    def after(self, line: dict[str, Any], kept: bool = False) -> BatchReport:
        """The report once a further line of output is there."""
        judged = "right" in line
        return BatchReport(
            self.lines,
            self.answered + 1,
            self.errors + ("error" in line),
            self.kept + kept,
            self.expected + judged,
            self.right + bool(judged and line["right"]),
        )


class _Question(BaseModel):
    """A line of the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    prompt: str
    candidates: Annotated[list[str], Field(min_length=2, max_length=MOST_CANDIDATES)] | None = None
    new_tokens: Annotated[int, Field(ge=1)] | None = None
    id: str | int | None = None
    expected: str | None = None


def run_batch(
    asker: Asker, source: Path, output: Path, options: BatchOptions, on_progress: OnProgress | None = None
) -> Iterator[BatchReport]:
    """Ask every line of `source`, and append the answers to `output`, line by line.

    Args:
        asker: who answers.
        source: lines of {"prompt": ..., "candidates": [...] or "new_tokens": N, "id": ..., "expected": ...}; all but the prompt may be left
            out. With `expected` the answer says whether it is `right`.
        output: one line for each, in the same order; what is there from an earlier call stays.
        options: for lines that do not say otherwise.
        on_progress: called with each report of a session's progress.

    Yields:
        Where the batch is: at the beginning and after each answer.

    Raises:
        ValueError: one sentence: `source` cannot be read, `output` is something else or answers other questions, or another process is
            writing it.
        SessionError: if a session could not be opened, or broke; what was answered stays.
    """
    lines = _lines(source)
    keys = [_key(line, asker, options) for line in lines]
    with one_writer(output):
        report = BatchReport(len(lines))
        for answered in _answered(output, keys, source):
            report = report.after(answered, kept=True)
        yield report
        with output.open("ab") as file:
            for number, line in enumerate(lines[report.answered :], report.answered + 1):
                try:
                    answer = {"line": number, **_answer(line, asker, options, on_progress), "key": keys[number - 1]}
                except SessionError as error:
                    raise SessionError(
                        f"{error} {report.answered} of {len(lines)} lines are answered in {output}: the same command goes on from there."
                    ) from error
                file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                report = report.after(answer)
                yield report


def _lines(source: Path) -> list[str]:
    """Raises: ValueError, if it is not UTF-8 or has no line."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8: byte {error.start + 1} is no text.") from error
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    if not lines:
        raise ValueError(f'{source} is empty: give lines such as {{"prompt": "...", "candidates": ["yes", "no"]}}.')
    return lines


def _key(line: str, asker: Asker, options: BatchOptions) -> str:
    asked = [line, options.mode, options.new_tokens, options.candidates, str(options.reveal), options.truncate, asker.identity]
    asked += [options.sampling.model_dump()] if options.sampling.temperature else []
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:KEY_CHARACTERS]


def _answered(output: Path, keys: list[str], source: Path) -> Iterator[dict[str, Any]]:
    """What an earlier call has answered; the half of a line that it may have left is cut off.

    Raises:
        ValueError: if the file holds something else, or answers to other questions.
    """
    if not output.exists():
        return
    *whole, torn = output.read_bytes().split(b"\n")
    start = b'{"line": '
    if torn and not start.startswith(torn[: len(start)]):
        raise ValueError(f"{output} holds something else than answers of a batch: choose another file.")
    for number, content in enumerate(whole, 1):
        try:
            answer = json.loads(content)
            key = answer["key"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{output} holds something else than answers of a batch (line {number}): choose another file.") from None
        if number > len(keys) or key != keys[number - 1]:
            raise ValueError(
                f"Line {number} of {output} answers another question than line {number} of {source}, or was asked of another model or with "
                "other options: choose another output."
            )
        yield answer
    if torn:
        os.truncate(output, sum(len(content) + 1 for content in whole))


def _answer(line: str, asker: Asker, options: BatchOptions, on_progress: OnProgress | None) -> dict[str, Any]:
    """A line of output, without number and key; with an `error` if the line cannot be asked."""
    name: dict[str, Any] = {}
    try:
        question = _read(line)
        name = {} if question.id is None else {"id": question.id}
        candidates, new_tokens = _asked(question, options)
        encode_prompt(asker.tokenizer, question.prompt, asker.context, new_tokens, options.truncate)
        if candidates is not None:
            candidate_tokens(asker.tokenizer, question.prompt, candidates)
    except ValueError as error:
        return {**name, "error": str(error)}
    try:
        if candidates is None:
            answer = asker.ask(question.prompt, new_tokens, options.reveal, options.truncate, on_progress, options.sampling)
        else:
            answer = asker.score(question.prompt, candidates, options.truncate, on_progress)
    except UnaskableError as error:
        return {**name, "error": str(error)}
    said = answer.text if answer.candidate is None else answer.candidate
    judged = {} if question.expected is None else {"expected": question.expected, "right": said.strip() == question.expected.strip()}
    found = {} if answer.candidate is None else {"candidate": answer.candidate}
    sent = {"bytes": answer.query.total_bytes, "prepared": answer.prepared} if answer.was_sent else {}
    return {
        **name,
        **found,
        "text": answer.text,
        "tokens": list(answer.tokens),
        **judged,
        "mode": answer.mode,
        **sent,
        "seconds": round(answer.query_seconds, 3),
    }


def _read(line: str) -> _Question:
    try:
        return _Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"This line is not a question ({where + ': ' if where else ''}{first['msg']}).") from error


def _asked(question: _Question, options: BatchOptions) -> tuple[tuple[str, ...] | None, int]:
    """The candidates of a question, or none, and how many tokens it asks for."""
    if question.candidates is not None:
        if question.new_tokens not in (None, 1):
            raise ValueError(f"A line with candidates asks for one token, not {question.new_tokens}: leave new_tokens out.")
        return tuple(question.candidates), 1
    if question.new_tokens is None and options.candidates is not None:
        return options.candidates, 1
    return None, question.new_tokens or options.new_tokens
