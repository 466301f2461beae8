"""Prepared answers between two real processes, for tests: what each party sees and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.private.models import SMALL, arrays, random_model

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.private.engine import Engine, Party, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe
from hushlm.private.program.export_model import choose_rewrites
from hushlm.private.program.fold import fold_weights

SPREAD = 0.15


@dataclass
class Seen:
    """What one party saw of an answer."""

    tokens: list[int | None] = field(default_factory=list)
    logits: list[np.ndarray | None] = field(default_factory=list)
    passes: list[Traffic] = field(default_factory=list)
    steps: list[dict[str, Traffic]] = field(default_factory=list)
    prepared: Traffic = field(default_factory=Traffic)
    items_left: int = -1


def exported(name: str, shape: ModelShape = SMALL) -> tuple[Any, ProgramDescription, dict[str, np.ndarray]]:
    """A random model, the description of its program, and its tensors."""
    architecture = parse(name)
    model = random_model(architecture, shape, 1, spread=SPREAD)
    state = arrays(model)
    rewrites, _ = choose_rewrites(state, architecture, shape, 18)
    description = describe(architecture, shape, rewrites)
    return model, description, fold_weights(state, architecture, shape, rewrites)


def answer(engine: Engine, names: list[str], prompt: list[int], new_tokens: int, reveal: str) -> dict[str, Seen]:
    """An answer of each architecture, one after the other, on one pair of processes."""
    found, desk = {}, Desk(engine)
    for name in names:
        _, description, weights = exported(name)
        client = engine.party is Party.CLIENT
        generator = PreparedGenerator(desk, description, None if client else weights)
        if not found:
            generator.set_up()
        (material,), prepared = generator.prepare(len(prompt), new_tokens)
        seen = Seen(prepared=prepared)
        policy = RevealPolicy.parse(reveal)
        for token in generator.generate(material, prompt if client else None, len(prompt), new_tokens, policy):
            seen.tokens.append(token.token)
            seen.logits.append(token.logits)
            seen.passes.append(token.traffic)
            seen.steps.append({f"{step.layer}.{step.name}": step.traffic for step in token.steps})
        seen.items_left = material.items_left
        found[name] = seen
    return found
