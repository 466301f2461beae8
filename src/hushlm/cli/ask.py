"""`hushlm ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["ask"]


def ask(
    prompt: str,
    model: Path | None = None,
    server: str = "127.0.0.1:8440",
    keys: Path | None = None,
    new_tokens: int = 8,
    reveal: str = "token",
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mode: Literal["plain", "simulate", "two-party"] = "two-party",
    truncate: bool = False,
    prepared: Literal["auto", "only", "never"] = "auto",
    prepared_folder: Path | None = None,
    network: str | None = None,
    client: str = "client",
    retries: int = 0,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
    json: bool = False,
) -> None:
    """Continue a prompt without showing it to the server.

    `hushlm ask - ... < prompt.txt` reads the prompt from standard input, where no other user of this machine can see it. A prompt that is
    typed as an argument can be seen by all of them while the command runs.

    Three modes give the same answer. two-party computes together with a server and shows it nothing but lengths. simulate runs the same
    program with the same fixed-point numbers in one process. plain runs the checkpoint.

    Args:
        prompt: "-" reads the text to continue from standard input, in UTF-8; anything else is the text itself.
        model: client/ folder of `hushlm export`; for simulate the export itself, which holds the weights; for plain a checkpoint.
        server: HOST:PORT of `hushlm serve`; an IPv6 address stands in brackets.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        new_tokens: how many tokens to generate.
        reveal: what this side learns of each step: token, topk:K or logits; each later one tells more about the weights.
        temperature: 0 takes the most likely token; above 0 one is drawn here, from revealed top-k or logits.
        top_p: draw only among the most likely tokens that reach this probability together.
        seed: number that decides the draws.
        mode: two-party, simulate or plain.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
        prepared: auto uses an answer that `hushlm prepare` made, where one fits; only refuses to ask without; never leaves them alone.
        prepared_folder: where prepared answers are stored; by default prepared/CLIENT in the folder of keys.
        network: what lies between here and the server: lan, wan, or round trip in ms and bandwidth in Mbps, for example 30ms,50Mbps. A
            prepared answer then takes the forms that are quickest over it; without it those that move the fewest bytes.
        client: name of the .pem and .key in the folder of keys.
        retries: how often to ask again where no server is found, or one without a place; a session that broke is never repeated.
        connect_seconds: how long the server may take to connect.
        queue_seconds: how long to wait in the server's queue.
        silent_seconds: how long the server's engine may be silent before the session is given up.
        json: print one JSON document.
    """
    from hushlm.cli.interrupts import one_interrupt
    from hushlm.cli.text_input import checked_argument, read_standard_input
    from hushlm.cost.network import parse_network
    from hushlm.extras import require_engine
    from hushlm.private.program.description import RevealPolicy
    from hushlm.private.program.sampling import Sampling
    from hushlm.report.question import QuestionProgress, print_answer
    from hushlm.report.table import print_json

    policy = RevealPolicy.parse(reveal)
    if not 0 <= temperature <= 100 or not 0 < top_p <= 1 or seed < 0:
        raise ValueError("The temperature must be between 0 and 100, top-p above 0 and at most 1, and the seed not negative.")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    sampling.chooser(policy)
    if model is None:
        raise ValueError("ask needs --model: the client/ folder of an export, or for --mode plain a checkpoint.")
    if mode == "two-party" and keys is None:
        raise ValueError("ask needs --keys: the folder that `hushlm keys create` wrote.")
    between = None if network is None else parse_network(network)
    if mode != "plain":
        require_engine()
    text = read_standard_input() if prompt == "-" else checked_argument(prompt, "The prompt")
    if mode == "plain":
        from hushlm.private.client.local_answers import answer_plainly

        answer = answer_plainly(model, text, new_tokens, policy, truncate)
    elif mode == "simulate":
        from hushlm.private.client.local_answers import answer_simulated

        answer = answer_simulated(model, text, new_tokens, policy, truncate, sampling)
    else:
        from hushlm.private.client.client import Client, ClientSettings
        from hushlm.private.client.retries import Retries

        assert keys is not None
        settings = ClientSettings(
            connect_seconds=connect_seconds,
            queue_seconds=queue_seconds,
            silent_seconds=silent_seconds,
            retries=Retries(retries),
            prepared=prepared,
            prepared_folder=prepared_folder,
            network=between,
        )
        with one_interrupt(), QuestionProgress() as display:
            answer = Client(model, server, keys, client, settings).ask(text, new_tokens, policy, truncate, display.update, sampling)
    if json:
        print_json(answer.to_dict())
    else:
        print_answer(answer)
