"""`hushlm ask`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hushlm.private.client.batch import Asker, BatchOptions

__all__ = ["ask"]

SERVER = "127.0.0.1:8440"
NEW_TOKENS = 8


def ask(
    prompt: str = "",
    *,
    model: Path | None = None,
    server: str | None = None,
    keys: Path | None = None,
    new_tokens: int | None = None,
    candidates: str = "",
    batch: Path | None = None,
    output: Path | None = None,
    reveal: str = "token",
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mode: Literal["plain", "simulate", "two-party"] | None = None,
    truncate: bool = False,
    prepared: Literal["auto", "only", "never"] = "auto",
    prepared_folder: Path | None = None,
    network: str | None = None,
    draft: Path | None = None,
    client: str = "client",
    retries: int = 0,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
    json: bool = False,
) -> int:
    """Continue a prompt without showing it to the server.

    `hushlm ask - ... < prompt.txt` reads the prompt from standard input, where no other user of this machine can see it. A prompt that is
    typed as an argument can be seen by all of them while the command runs.

    Three modes give the same answer. two-party computes together with a server and shows it nothing but lengths. simulate runs the same
    program with the same fixed-point numbers in one process. plain runs the checkpoint. Without a model, keys and a server, the small code
    model that comes with the package answers in plain, here; it answers anywhere as `--mode plain --model box`.

    With --candidates the answer is the likeliest of these words, in one pass: the server learns which words they are, and not which of them
    it is. With --batch every line of a file is a question, a JSON document with a prompt, and if you like candidates or new_tokens, an id,
    and the expected answer. The exit code is 1 if a line could not be asked.

    Args:
        prompt: "-" reads the text to continue from standard input, in UTF-8; anything else is the text itself.
        model: client/ folder of `hushlm export`; for simulate the export itself, which holds the weights; for plain a checkpoint.
        server: HOST:PORT of `hushlm serve`, by default 127.0.0.1:8440; an IPv6 address stands in brackets.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        new_tokens: how many tokens to generate; 8 by default, and 1 with candidates.
        candidates: words that the prompt may go on with, with commas between them, each one token; the answer is the likeliest of them.
        batch: file of JSON lines with questions, asked one after the other in place of a prompt.
        output: file that the answers of a batch are appended to, line by line; a further call goes on after those that are there.
        reveal: what this side learns of each step: token, topk:K or logits; each later one tells more about the weights.
        temperature: 0 takes the most likely token; above 0 one is drawn here, from revealed top-k or logits.
        top_p: draw only among the most likely tokens that reach this probability together.
        seed: number that decides the draws.
        mode: two-party, simulate or plain; by default two-party, and plain for the model that comes with the package.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
        prepared: auto uses an answer that `hushlm prepare` made, where one fits; only refuses to ask without; never leaves them alone.
        prepared_folder: where prepared answers are stored; by default prepared/CLIENT in the folder of keys.
        network: what lies between here and the server: lan, wan, or round trip in ms and bandwidth in Mbps, for example 30ms,50Mbps. A
            prepared answer then takes the forms that are quickest over it; without it those that move the fewest bytes. Every session takes
            the oblivious transfers that are quicker over it; without it those for this machine alone if the server's address is its own,
            and else those for wan.
        draft: checkpoint, here, that guesses tokens for an answer made by `hushlm prepare --draft K`; without it guesses are looked up in
            prompt and answer. The better it guesses, the fewer passes; the answer is the same.
        client: name of the .pem and .key in the folder of keys.
        retries: how often to ask again where no server is found, or one without a place; a session that broke is never repeated.
        connect_seconds: how long the server may take to connect.
        queue_seconds: how long to wait in the server's queue.
        silent_seconds: how long the server's engine may be silent before the session is given up.
        json: print one JSON document.
    """
    from hushlm.box import MODEL
    from hushlm.cli.interrupts import one_interrupt
    from hushlm.cli.text_input import checked_argument, read_standard_input
    from hushlm.cost.network import parse_network
    from hushlm.extras import require_engine
    from hushlm.private.client.batch import BatchOptions
    from hushlm.private.program.description import RevealPolicy
    from hushlm.private.program.sampling import Sampling
    from hushlm.report.question import QuestionProgress, print_answer
    from hushlm.report.table import print_json

    policy = RevealPolicy.parse(reveal)
    if not 0 <= temperature <= 100 or not 0 < top_p <= 1 or seed < 0:
        raise ValueError("The temperature must be between 0 and 100, top-p above 0 and at most 1, and the seed not negative.")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    sampling.chooser(policy)
    words = None if not candidates else tuple(word.strip() for word in checked_argument(candidates, "--candidates").split(","))
    if words is not None and (policy.kind != "token" or new_tokens not in (None, 1)):
        raise ValueError("With --candidates one token is chosen and nothing else revealed: leave --new-tokens and --reveal out.")
    if not prompt and batch is None:
        raise ValueError("The prompt is empty: write one, or name a file of questions with --batch and one for answers with --output.")
    if (prompt and batch is not None) or (batch is None) != (output is None):
        raise ValueError("--batch, a file of questions, and --output, a file for answers, go together and take no prompt beside them.")
    nothing_private = keys is None and server is None and prepared == "auto" and policy.kind == "token"
    if model is None and nothing_private and mode in (None, "plain"):
        model, mode = MODEL, "plain"
        print("No --model is given: the model that comes with the package answers here, in plain, and nothing is sent.", file=sys.stderr)
    if model is None:
        raise ValueError(
            "ask needs --model: the client/ folder of an export, for --mode simulate the export itself, or for --mode plain a checkpoint."
        )
    mode = mode or "two-party"
    if mode == "two-party" and keys is None:
        raise ValueError("ask needs --keys: the folder that `hushlm keys create` wrote.")
    if mode == "plain" and policy.kind != "token":
        raise ValueError("--mode plain gives tokens: leave --reveal out, or use --mode simulate.")
    if draft is not None and (mode != "two-party" or prepared == "never"):
        raise ValueError("--draft guesses tokens of prepared answers between two parties: leave it out.")
    between = None if network is None else parse_network(network)
    if mode != "plain":
        require_engine()
    text = None if batch is not None else read_standard_input() if prompt == "-" else checked_argument(prompt, "The prompt")
    asker: Asker
    if mode == "plain":
        from hushlm.private.client.local_answers import PlainModel

        asker = PlainModel(model)
    elif mode == "simulate":
        from hushlm.private.client.local_answers import SimulatedModel

        asker = SimulatedModel(model)
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
            draft_model=draft,
        )
        asker = Client(model, server or SERVER, keys, client, settings)
    tokens = NEW_TOKENS if new_tokens is None else new_tokens
    with one_interrupt():
        if text is None:
            assert batch is not None
            assert output is not None
            return _ask_batch(asker, batch, output, BatchOptions(mode, tokens, words, policy, sampling, truncate), json)
        with QuestionProgress() as display:
            if words is None:
                answer = asker.ask(text, tokens, policy, truncate, display.update, sampling)
            else:
                answer = asker.score(text, words, truncate, display.update)
    if json:
        print_json(answer.to_dict())
    else:
        print_answer(answer)
    return 0


def _ask_batch(asker: Asker, batch: Path, output: Path, options: BatchOptions, json: bool) -> int:
    """Returns: the exit code."""
    from hushlm.private.client.batch import run_batch
    from hushlm.report.batch import BatchProgress, print_batch
    from hushlm.report.table import print_json

    with BatchProgress() as display:
        for report in run_batch(asker, batch, output, options, display.update):
            display.answered(report)
    if json:
        print_json(report.to_dict())
    else:
        print_batch(report, output)
    return int(report.errors > 0)
