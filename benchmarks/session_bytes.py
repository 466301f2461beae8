"""Count a real session of small models token by token, beside its price and beside the stocks that its calls draw on.

    python benchmarks/session_bytes.py    # writes results/session-bytes.json

Two processes, a client and a server on this machine, answer several questions in one session of each architecture. Every token's bytes
stand beside two predictions. The price (`hushlm cost`) is a steady state, which spreads over every call its share of the triple batches
and of the refills of oblivious transfers. The other one (`hushlm.cost.stocks`) follows the stocks call by call and says which token pays
for a whole batch or refill. Weights are random, because bytes depend on shapes alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from hushlm.architectures import parse
from hushlm.calibration.both_parties import run_both
from hushlm.calibration.validation import random_weights
from hushlm.config import ModelShape
from hushlm.cost import price_generation
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_opening, price_operation
from hushlm.cost.primitives import TRANSFER_STOCK, TRIPLE_BATCH, Primitives
from hushlm.cost.stocks import Session
from hushlm.files import write_atomic
from hushlm.plan import Plan, Reveal
from hushlm.private.engine import Engine, Party
from hushlm.private.program.description import ProgramDescription, describe
from hushlm.private.program.generate import PrivateGenerator

ARCHITECTURES = ("SM2+R", "SM2+ScFuFFN", "SM+LN+G")
SHAPE = ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=64)
PROMPT_TOKENS, NEW_TOKENS, QUESTIONS = 4, 4, 12
"""Twelve questions are enough for SM+LN+G to need a refill of oblivious transfers."""

WARM_ELEMENTS = 4096
"""Elements of the comparison and of the selection in `PrivateGenerator.set_up` with the default number of threads."""
RESULTS = Path(__file__).parents[1] / "results" / "session-bytes.json"


def answer_questions(engine: Engine, description: ProgramDescription) -> list[list[int]]:
    """Bytes of every token of every question at this party, both directions together."""
    generator = PrivateGenerator(engine, description, random_weights(description) if engine.party is Party.SERVER else None)
    generator.set_up()
    prompt = list(range(PROMPT_TOKENS)) if engine.party is Party.CLIENT else None
    return [[answer.traffic.total_bytes for answer in generator.generate(prompt, PROMPT_TOKENS, NEW_TOKENS)] for _ in range(QUESTIONS)]


def rows_of(architecture: str) -> list[dict]:
    """One row for each token: what was counted, the price, and what the stocks say."""
    description = describe(parse(architecture), SHAPE)
    client, server = run_both(answer_questions, (description,), description.engine)
    assert client == server, "The two parties counted different bytes."
    priced = price_generation(parse(architecture), SHAPE, PROMPT_TOKENS, NEW_TOKENS).passes
    primitives = Primitives(load_constants().values, description.engine)
    session = Session(primitives)
    session.run(primitives.compare(WARM_ELEMENTS) + primitives.select(WARM_ELEMENTS))
    rows = []
    for question, counted in enumerate(client):
        for token, (moved, report) in enumerate(zip(counted, priced, strict=True)):
            due = session.due(bare := _bare(report.plan, primitives))
            rows.append(
                {
                    "architecture": architecture,
                    "question": question + 1,
                    "token": token + 1,
                    "counted_bytes": moved,
                    "priced_bytes": report.total.bytes,
                    "followed_bytes": round((bare + due.exchange(primitives)).total_bytes),
                    "triple_batches": due.triple_batches,
                    "refills": due.forward_refills + due.back_refills,
                }
            )
    return rows


def _bare(plan: Plan, primitives: Primitives) -> Exchange:
    """A pass without refills and triple batches, with the opening of its answer."""
    reveal = plan.steps[-1].operation
    assert isinstance(reveal, Reveal)
    return sum((price_operation(step.operation, primitives) for step in plan.steps), price_opening(reveal))


def main() -> None:
    rows = []
    for architecture in ARCHITECTURES:
        for row in rows_of(architecture):
            rows.append(row)
            print(json.dumps(row), flush=True)
    batch = Primitives(load_constants().values, describe(parse(ARCHITECTURES[0]), SHAPE).engine).triple_batch()
    document = {
        "shape": vars(SHAPE),
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "triples_in_a_batch": TRIPLE_BATCH,
        "triple_batch_bytes": round(batch.total_bytes),
        "transfers_in_a_refill": TRANSFER_STOCK,
        "refill_bytes": round(load_constants().values.refill),
        "rows": rows,
    }
    write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
