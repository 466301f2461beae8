"""The price of answers from prepared material: making it, answering from it, keeping it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.network import WAN, Network
from hushlm.cost.prepared.calls import OnlineCalls, calls_with
from hushlm.cost.prepared.offline import kept_bytes, offline_calls
from hushlm.cost.prepared.online import online_exchange
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.prepared.session import answer_plans, answer_set_up, multiplies_by_engine, session_settings
from hushlm.cost.pricing import Amount, CostReport, amount_of, amounts_by, amounts_together, pass_report
from hushlm.cost.primitives import Primitives
from hushlm.cost.program_overhead import overhead_seconds
from hushlm.plan import HUSH, Operation, ProtocolSettings, Reveal, Rewrites, bucket_length
from hushlm.plan.needs import AttendNeed, LookUpNeed, Need, ProjectNeed, answer_needs, pass_needs
from hushlm.plan.protocol_settings import Transfers

__all__ = ["ANSWERS", "PreparedCost", "price_prepared", "price_prepared_passes"]

ANSWERS = 8
"""Answers are prepared so many at a time, where nothing else is said."""

OFFLINE_LINES = 8
"""About how many lines the compiled program of a product has."""


@dataclass(frozen=True)
class PreparedCost:
    """What an answer from prepared material costs.

    Attributes:
        prompt_bucket: the material is good for prompts that are rounded up to so many tokens.
        answers: so many were prepared in one go.
        offline: the material of one answer: a batch's amount divided by its answers.
        offline_by_kind: the same by what is multiplied, as `OfflineKind` has it.
        passes: the pass over the prompt, and then one for each further token, from material, compiled programs in hand.
        online: their sum.
        set_up: what a session that answers moves once; `hushlm.cost.price` says it for today's pass.
        set_up_preparing: what a session that prepares moves once.
        kept_client_bytes, kept_server_bytes: what each party keeps of one answer's material until the answer.
        measured: which runs the seconds were fitted to.
    """

    prompt_bucket: int
    answers: int
    offline: Amount
    offline_by_kind: dict[str, Amount]
    passes: tuple[CostReport, ...]
    online: Amount
    set_up: Amount
    set_up_preparing: Amount
    kept_client_bytes: int
    kept_server_bytes: int
    measured: str

    def to_dict(self) -> dict[str, Any]:
        """The price as plain JSON values."""
        return {
            "prompt_bucket": self.prompt_bucket,
            "new_tokens": len(self.passes),
            "answers": self.answers,
            "offline": self.offline.to_dict(),
            "offline_by_kind": {name: amount.to_dict() for name, amount in self.offline_by_kind.items()},
            "online": self.online.to_dict(),
            "first_token": self.passes[0].to_dict(),
            "last_further_token": self.passes[-1].to_dict() if len(self.passes) > 1 else None,
            "set_up": self.set_up.to_dict(),
            "set_up_preparing": self.set_up_preparing.to_dict(),
            "kept_client_bytes": self.kept_client_bytes,
            "kept_server_bytes": self.kept_server_bytes,
            "measured": self.measured,
        }


def price_prepared(
    architecture: Architecture,
    shape: ModelShape,
    prompt: int,
    new_tokens: int,
    reveal: Reveal | None = None,
    rewrites: Rewrites = HUSH,
    settings: ProtocolSettings | None = None,
    network: Network = WAN,
    answers: int = ANSWERS,
) -> PreparedCost:
    """The price of preparing an answer, and of answering a prompt with `new_tokens` tokens from what was prepared.

    Args:
        architecture, shape: what the model is and how large it is.
        prompt: how many tokens the prompt has. Material is made for all prompts that are rounded up to the same length.
        new_tokens: how many tokens the answer has.
        reveal: what the client learns of each pass; the next token by default.
        rewrites: how the program is written.
        settings: the engine's settings; the private program's own by default. An answer takes as many of its threads as it is worth, and
            the kind of oblivious transfers that is quicker.
        network: the network that the seconds are for.
        answers: how many answers are prepared in one go; their rows share products.

    Raises:
        ValueError: if the prompt and the answer do not fit the context, or nothing is to be prepared.
    """
    if answers < 1:
        raise ValueError(f"{answers} answers: prepare at least one.")
    settings, bucket = settings or ProtocolSettings(), bucket_length(prompt, shape.context)
    needs = answer_needs(architecture, shape, bucket, new_tokens, rewrites)
    kinds = amounts_by(_offline(needs, answers, settings, rewrites.encoded_bytes), network)
    by_kind = {name: _share(amount, answers) for name, amount in kinds.items()}
    passes = price_prepared_passes(architecture, shape, prompt, new_tokens, reveal, rewrites, settings, network)
    client, server = kept_bytes(needs)
    return PreparedCost(
        prompt_bucket=bucket,
        answers=answers,
        offline=_share(amounts_together(kinds.values()), answers),
        offline_by_kind=by_kind,
        passes=passes,
        online=amounts_together(report.total for report in passes),
        set_up=passes[0].set_up,
        set_up_preparing=amount_of(_calls(settings)[0].set_up_preparing(), network),
        kept_client_bytes=client,
        kept_server_bytes=server,
        measured=f"{load_online_constants().machine}, {load_online_constants().measured}",
    )


def price_prepared_passes(
    architecture: Architecture,
    shape: ModelShape,
    prompt: int,
    new_tokens: int,
    reveal: Reveal | None = None,
    rewrites: Rewrites = HUSH,
    settings: ProtocolSettings | None = None,
    network: Network = WAN,
    draft: int = 0,
    forms: Network | None = None,
    near: bool = False,
    transfers: Transfers | None = None,
    threads: int | None = None,
) -> tuple[CostReport, ...]:
    """The passes of `price_prepared`, each at the length at which a session runs it.

    Args:
        draft: how many tokens each further pass guesses; all guesses are taken to be wrong.
        forms: the network for which the forms are chosen; None takes those with the fewest bytes.
        near: whether both parties are on one machine, see `hushlm.cost.prepared.session.session_transfers`.
        transfers: how the session makes oblivious transfers; None takes what is quicker over `forms`, as sessions do.
        threads: of each party's engine; None takes as many as sessions do.
    """
    plans = answer_plans(architecture, shape, prompt, new_tokens, reveal, rewrites, draft)
    without_guesses = answer_plans(architecture, shape, prompt, new_tokens, reveal, rewrites) if draft else plans
    settings = session_settings(without_guesses, settings or ProtocolSettings(), forms, prepared=True, near=near)
    settings = replace(settings, transfers=transfers or settings.transfers, threads=threads or settings.threads)
    values, elapsed = _calls(settings)
    prices = dict[tuple[Operation, tuple[Need, ...]], Exchange]()

    def priced(operation: Operation, needs: tuple[Need, ...]) -> Exchange:
        """Equal layers are priced once."""
        key = (operation, needs)
        if key not in prices:
            prices[key] = _online(operation, needs, values, elapsed, forms)
        return prices[key]

    set_up = answer_set_up(multiplies_by_engine(plans, forms), settings)
    opened, reports = dict[str, int](), []
    for plan in plans:
        exchanges = [priced(step.operation, tuple(map(_unnamed, needs))) for step, needs in pass_needs(plan, opened)]
        reports.append(pass_report(plan, network, exchanges, sum(exchanges, Exchange()), set_up, settings.transfers))
    return tuple(reports)


def _calls(settings: ProtocolSettings) -> tuple[OnlineCalls, OnlineCalls]:
    """Prices of calls with CPU seconds, and with those that pass."""
    online, moved = load_online_constants(), load_constants()
    return calls_with(moved.values, online.values, settings), calls_with(moved.elapsed, online.elapsed, settings)


def _unnamed(need: Need) -> Need:
    """The same need of any layer."""
    match need:
        case ProjectNeed() | LookUpNeed():
            return replace(need, weight="")
        case AttendNeed():
            return replace(need, cache="")
        case _:
            return need


def _online(operation: Operation, needs: tuple[Need, ...], values: OnlineCalls, elapsed: OnlineCalls, forms: Network | None) -> Exchange:
    exchange, timed = (p.amortised(online_exchange(operation, needs, p, forms)) for p in (values, elapsed))
    # Its price already contains what it draws from the stocks.
    return replace(exchange, compute_seconds=timed.cpu_seconds, triples=(), forward_transfers=(), back_transfers=())


def _offline(needs: list[list[Need]], answers: int, settings: ProtocolSettings, encoded_bytes: float) -> Iterator[tuple[str, Exchange]]:
    """The products of a batch, in the steady state, with the seconds of their messages."""
    calibrated = load_constants()
    sides = [Primitives(constants, settings) for constants in (calibrated.values, calibrated.elapsed)]
    both = zip(*(offline_calls(needs, answers, p, encoded_bytes) for p in sides), strict=True)
    for (kind, bare), (_, timed) in both:
        used, passed = (p.amortised(each) for p, each in zip(sides, (bare, timed), strict=True))
        cpu, compute = (
            each.cpu_seconds + overhead_seconds(each, OFFLINE_LINES * bare.calls, p.constants)
            for p, each in zip(sides, (used, passed), strict=True)
        )
        yield str(kind), replace(used, cpu_seconds=cpu, compute_seconds=compute)


def _share(amount: Amount, answers: int) -> Amount:
    """One answer's share of what a batch costs."""
    return Amount(
        client_to_server_bytes=round(amount.client_to_server_bytes / answers),
        server_to_client_bytes=round(amount.server_to_client_bytes / answers),
        messages=round(amount.messages / answers),
        rounds=round(amount.rounds / answers, 1),
        cpu_seconds=amount.cpu_seconds / answers,
        compute_seconds=amount.compute_seconds / answers,
        seconds=amount.seconds / answers,
    )
