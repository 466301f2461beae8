"""The price of a whole answer as it is computed today, without prepared material: the passes that one session makes, one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.network import WAN, Network
from hushlm.cost.prepared.session import answer_plans, session_settings
from hushlm.cost.pricing import Amount, CostReport, amounts_together, price
from hushlm.plan import HUSH, Plan, ProtocolSettings, Reveal, Rewrites, bucket_length, prefill_plan
from hushlm.plan.protocol_settings import Transfers

__all__ = ["GenerationCost", "price_generation"]


@dataclass(frozen=True)
class GenerationCost:
    """What a whole answer costs.

    Attributes:
        passes: the pass over the prompt, and then one pass for each further token.
        total: the sum of all passes, without set-up.
        without_cache: the price of the same tokens if each took a pass over all tokens before it, which is how the paper generates.
    """

    passes: tuple[CostReport, ...]
    total: Amount
    without_cache: Amount


def price_generation(
    architecture: Architecture,
    shape: ModelShape,
    prompt: int,
    new_tokens: int,
    reveal: Reveal | None = None,
    rewrites: Rewrites = HUSH,
    settings: ProtocolSettings | None = None,
    network: Network = WAN,
    transfers: Transfers | None = None,
) -> GenerationCost:
    """The price of answering a prompt with `new_tokens` tokens, with the key-value cache and without it.

    Every pass is priced at the length at which a session runs it, which is `hushlm.plan.bucket_length` of its tokens.

    Args:
        architecture, shape: what the model is and how large it is.
        prompt: how many tokens the prompt has.
        new_tokens: how many tokens the answer has.
        reveal: what the client learns of each pass; the next token by default.
        rewrites: how the program is written.
        settings: the engine's settings; the private program's own by default.
        network: the network that the seconds are for.
        transfers: how the session makes oblivious transfers; None takes what is quicker over the network, as sessions do.

    Raises:
        ValueError: if the prompt and the answer do not fit the context together.
    """
    if new_tokens < 1:
        raise ValueError(f"{new_tokens} new tokens: ask for at least one.")
    last = prompt + new_tokens - 1
    if last > shape.context:
        raise ValueError(
            f"A prompt of {prompt} tokens and {new_tokens} new ones take {last} places of the context of {shape.context}: shorten one."
        )

    plans = answer_plans(architecture, shape, prompt, new_tokens, reveal, rewrites)
    settings = settings or ProtocolSettings()
    settings = session_settings(plans, settings, network) if transfers is None else replace(settings, transfers=transfers)

    @cache
    def priced(plan: Plan) -> CostReport:
        return price(plan, settings, network)

    lengths = [bucket_length(tokens, shape.context) for tokens in range(prompt, last + 1)]
    whole = {length: priced(prefill_plan(architecture, shape, length, reveal, rewrites)) for length in dict.fromkeys(lengths)}
    passes = tuple(map(priced, plans))
    return GenerationCost(
        passes, amounts_together(report.total for report in passes), amounts_together(whole[length].total for length in lengths)
    )
