"""Prepares and answers between two real processes, and reports what moved: what the prices of prepared answers are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hushlm.calibration.both_parties import stream_both
from hushlm.private.engine import Engine, EngineSettings, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.description import RevealPolicy
from tests.private.prepared.answers import Exported


@dataclass(frozen=True)
class CountedAnswer:
    """What one party counted.

    Attributes:
        set_up: of the session, before its first answer.
        offline: of all answers that were prepared together.
        passes: of the answer that was given, one a token.
        kept_bytes: of one answer's material.
    """

    set_up: Traffic
    offline: Traffic
    passes: tuple[Traffic, ...]
    kept_bytes: int


def _answers(
    engine: Engine, exports: Sequence[Exported], prompt: list[int], new_tokens: int, answers: int, reveal: RevealPolicy
) -> Iterator[CountedAnswer]:
    desk, set_up = Desk(engine), Traffic()
    for number, export in enumerate(exports):
        generator = PreparedGenerator(desk, export.description, None if desk.is_client else export.weights)
        if not number:
            set_up = generator.set_up()
        materials, offline = generator.prepare(len(prompt), new_tokens, answers)
        kept = materials[0].size_bytes
        mine = prompt if desk.is_client else None
        given = generator.generate(materials[0], mine, len(prompt), new_tokens, reveal)
        yield CountedAnswer(set_up, offline, tuple(token.traffic for token in given), kept)


def counted_answers(
    exports: Sequence[Exported], prompt: list[int], new_tokens: int, answers: int, reveal: RevealPolicy
) -> Iterator[tuple[CountedAnswer, CountedAnswer]]:
    """What client and server counted of each program, one after the other in one session."""
    return stream_both(_answers, (exports, prompt, new_tokens, answers, reveal), EngineSettings())
