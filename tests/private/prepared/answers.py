"""Prepared answers between two real processes, for tests: what each party sees and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hushlm.architectures import parse
from hushlm.calibration.both_parties import stream_both
from hushlm.config import ModelShape
from hushlm.cost.network import Network
from hushlm.private.engine import Engine, EngineSettings, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe

if TYPE_CHECKING:
    from hushlm.model import LanguageModel

SPREAD = 0.15


@dataclass
class Exported:
    """A random model's program, and its tensors."""

    description: ProgramDescription
    weights: dict[str, np.ndarray]


@dataclass
class Seen:
    """What one party saw of an answer.

    Attributes:
        tokens, logits, passes, steps: of each token; a step's traffic by "LAYER.STEP".
        prepared: what making the material moved.
        items_left: of the material, afterwards.
    """

    tokens: list[int | None] = field(default_factory=list)
    logits: list[np.ndarray | None] = field(default_factory=list)
    passes: list[Traffic] = field(default_factory=list)
    steps: list[dict[str, Traffic]] = field(default_factory=list)
    prepared: Traffic = field(default_factory=Traffic)
    items_left: int = -1


def exported(name: str, shape: ModelShape | None = None, seed: int = 1, spread: float = SPREAD) -> tuple[LanguageModel, Exported]:
    """A random model with numbers far from their initialisation, and its export."""
    # Here and not above: the two parties need no torch.
    from tests.private.models import SMALL, arrays, random_model

    from hushlm.private.program.export_model import choose_rewrites
    from hushlm.private.program.fold import fold_weights

    architecture, shape = parse(name), shape or SMALL
    model = random_model(architecture, shape, seed, spread)
    state = arrays(model)
    rewrites, _ = choose_rewrites(state, architecture, shape, 18)
    return model, Exported(describe(architecture, shape, rewrites), fold_weights(state, architecture, shape, rewrites))


def _answers(
    engine: Engine, exports: Sequence[Exported], prompt: list[int], new_tokens: int, reveal: str, network: Network | None
) -> Iterator[Seen]:
    desk = Desk(engine, network)
    for number, export in enumerate(exports):
        generator = PreparedGenerator(desk, export.description, None if desk.is_client else export.weights)
        if not number:
            generator.set_up()
        (material,), prepared = generator.prepare(len(prompt), new_tokens)
        seen = Seen(prepared=prepared)
        policy = RevealPolicy.parse(reveal)
        for token in generator.generate(material, prompt if desk.is_client else None, len(prompt), new_tokens, policy):
            seen.tokens.append(token.token)
            seen.logits.append(token.logits)
            seen.passes.append(token.traffic)
            seen.steps.append({f"{step.layer}.{step.name}": step.traffic for step in token.steps})
        seen.items_left = material.items_left
        yield seen


def prepared_answers(
    exports: Sequence[Exported], prompt: list[int], new_tokens: int, reveal: str = "logits", network: Network | None = None
) -> Iterator[tuple[Seen, Seen]]:
    """An answer of each program, one after the other on one pair of processes: what client and server saw."""
    return stream_both(_answers, (exports, prompt, new_tokens, reveal, network), EngineSettings())
