"""`hushlm ask`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hushlm.private.client.client import PrivateAnswer
    from hushlm.private.engine.traffic import Traffic
    from hushlm.private.program.description import RevealPolicy
    from hushlm.private.program.sampling import Sampling
    from hushlm.private.program.token_answer import StepTraffic, TokenAnswer

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
    client: str = "client",
    listen_host: str | None = None,
    retries: int = 0,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
    json: bool = False,
) -> None:
    """Continue a prompt without showing it to the server.

    Three ways give the same answer: two-party computes with a server and shows it nothing but lengths; simulate runs the same
    program with the same fixed-point numbers in one process; plain runs the checkpoint.

    Args:
        prompt: text to continue; "-" reads it from standard input, where no other user of this machine can see it.
        model: client/ folder of `hushlm export`; for simulate the export itself, which holds the weights; for plain a checkpoint.
        server: HOST:PORT of `hushlm serve`.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        new_tokens: how many tokens to generate.
        reveal: what this side learns of each step: token, topk:K or logits; each later one tells more about the weights.
        temperature: 0 takes the most likely token; above 0 one is drawn here, from revealed top-k or logits.
        top_p: draw among the most likely tokens alone that reach this probability together.
        seed: of the draws.
        mode: two-party, simulate or plain.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
        client: name of the .pem and .key in the folder of keys.
        listen_host: IPv4 address of this machine that the server can reach; found by itself where there is one.
        retries: how often to ask again where no server is found, or one without a place; a session that broke is never repeated.
        connect_seconds: how long the server may take to connect.
        queue_seconds: how long to wait in the server's queue.
        silent_seconds: how long the server's engine may be silent before the session is given up.
        json: print one JSON document.
    """
    from hushlm.extras import require_engine
    from hushlm.private.program.description import RevealPolicy
    from hushlm.private.program.sampling import Sampling
    from hushlm.report.table import print_json

    policy = RevealPolicy.parse(reveal)
    if not 0 <= temperature <= 100 or not 0 < top_p <= 1 or seed < 0:
        raise ValueError("The temperature must be between 0 and 100, top-p above 0 and at most 1, and the seed not negative.")
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    sampling.chooser(policy)
    if model is None:
        raise ValueError("ask needs --model: the client/ folder of an export, or for --mode plain a checkpoint.")
    text = sys.stdin.read() if prompt == "-" else prompt
    match mode:
        case "plain":
            result = _plain(text, model, new_tokens, policy, truncate)
        case "simulate":
            require_engine()
            result = _simulate(text, model, new_tokens, policy, sampling, truncate)
        case "two-party":
            if keys is None:
                raise ValueError("ask needs --keys: the folder that `hushlm keys create` wrote.")
            require_engine()
            from hushlm.private.client.client import Client, ClientSettings
            from hushlm.private.client.retries import Retries
            from hushlm.report.question import QuestionProgress

            settings = ClientSettings(
                connect_seconds=connect_seconds,
                queue_seconds=queue_seconds,
                silent_seconds=silent_seconds,
                retries=Retries(retries),
                listen_host=listen_host,
            )
            asking = Client(model, server, keys, client, settings)
            with QuestionProgress() as display:
                answer = asking.ask(text, new_tokens, policy, truncate, display.update, sampling)
            result = _two_party(answer, asking.tokenizer.decode(list(answer.prompt_tokens)))
    if json:
        print_json(result.to_dict(mode, str(policy)))
    else:
        result.show()


@dataclass(frozen=True)
class _Result:
    """What is printed."""

    prompt_text: str
    prompt_tokens: int
    text: str
    tokens: list[int]
    answers: tuple[TokenAnswer, ...]
    seconds: float
    query: Traffic | None = None
    set_up: Traffic | None = None
    set_up_seconds: float | None = None
    expected_bytes: int | None = None

    def to_dict(self, mode: str, reveal: str) -> dict[str, Any]:
        revealed = [
            {"token": a.token, "top": a.top, "logits": None if a.logits is None else [float(value) for value in a.logits]}
            for a in self.answers
        ]
        return {
            "mode": mode,
            "reveal": reveal,
            "prompt_text": self.prompt_text,
            "prompt_tokens": self.prompt_tokens,
            "text": self.text,
            "tokens": self.tokens,
            "answers": revealed,
            **_moved(self.query),
            "expected_bytes": self.expected_bytes,
            "seconds": round(self.seconds, 3),
            "by_operation": self._shares(lambda step: step.name),
            "by_layer": self._shares(lambda step: "outside" if step.layer is None else str(step.layer)),
            "set_up": None if self.set_up_seconds is None else {**_moved(self.set_up), "seconds": round(self.set_up_seconds, 3)},
        }

    def _shares(self, key: Callable[[StepTraffic], str]) -> dict[str, dict[str, Any]] | None:
        """The query's traffic by a key of its steps; None where nothing was sent."""
        if self.query is None:
            return None
        from hushlm.private.program.token_answer import traffic_by

        sums = traffic_by(self.answers, key)
        return {name: {**_moved(moved), "seconds": round(moved.seconds, 3)} for name, moved in sums.items()}

    def show(self) -> None:
        print(f"prompt, its last tokens:  {self.prompt_text[-60:]!r}")
        print(f"answer:                   {self.text!r}")
        print(f"tokens:                   {self.tokens}")
        for answer in self.answers:
            if answer.top is not None:
                print("  " + ", ".join(f"{token}: {logit:.3f}" for token, logit in answer.top))
        if self.query is None or self.set_up is None or self.set_up_seconds is None:
            print(f"{self.seconds:.1f} s in one process: nothing was sent.")
            return
        from hushlm.report.table import Column, Table, print_table

        columns = (
            Column("phase", ""),
            Column("bytes_client_to_server", "client to server (MB)", lambda count: f"{count / 1e6:.2f}", "right"),
            Column("bytes_server_to_client", "server to client (MB)", lambda count: f"{count / 1e6:.2f}", "right"),
            Column("messages", "messages", "d", "right"),
            Column("seconds", "seconds", ".1f", "right"),
        )
        rows = [
            {"phase": "set-up", **_moved(self.set_up), "seconds": self.set_up_seconds},
            {"phase": f"{len(self.tokens)} tokens", **_moved(self.query), "seconds": self.seconds},
        ]
        assert self.expected_bytes is not None
        note = (
            "Payload of the engine's links, counted by the engine; 1 MB = 10^6 bytes. Set-up includes starting both processes. "
            f"Predicted before: {self.expected_bytes / 1e6:.2f} MB."
        )
        print_table(Table("What it took", columns, rows, note))


def _moved(traffic: Traffic | None) -> dict[str, int | None]:
    """As seen by the client."""
    if traffic is None:
        return {"bytes_client_to_server": None, "bytes_server_to_client": None, "messages": None}
    return {
        "bytes_client_to_server": traffic.sent_bytes,
        "bytes_server_to_client": traffic.received_bytes,
        "messages": traffic.sent_messages + traffic.received_messages,
    }


def _two_party(answer: PrivateAnswer, prompt_text: str) -> _Result:
    return _Result(
        prompt_text,
        len(answer.prompt_tokens),
        answer.text,
        list(answer.tokens),
        answer.answers,
        answer.query_seconds,
        answer.query,
        answer.set_up,
        answer.set_up_seconds,
        answer.expected_bytes,
    )


def _plain(prompt: str, folder: Path, new_tokens: int, reveal: RevealPolicy, truncate: bool) -> _Result:
    """The checkpoint itself, in float32."""
    from hushlm.private.client.prompts import encode_prompt
    from hushlm.training.checkpoint import load_checkpoint

    if reveal.kind != "token":
        raise ValueError("--mode plain gives tokens: leave --reveal out, or use --mode simulate.")
    checkpoint = load_checkpoint(folder)
    tokens = encode_prompt(checkpoint.tokenizer, prompt, checkpoint.model.shape.context, new_tokens, truncate)
    start = time.perf_counter()
    answer = checkpoint.model.greedy(tokens, new_tokens)
    seconds = time.perf_counter() - start
    return _Result(checkpoint.tokenizer.decode(tokens), len(tokens), checkpoint.tokenizer.decode(answer), answer, (), seconds)


def _simulate(prompt: str, folder: Path, new_tokens: int, reveal: RevealPolicy, sampling: Sampling, truncate: bool) -> _Result:
    """The private program in the clear, with the engine's fixed-point numbers."""
    from dataclasses import replace

    from hushlm.private.client.prompts import encode_prompt, load_tokenizer
    from hushlm.private.engine import Engine, Party
    from hushlm.private.program.description import load_description, load_server_weights
    from hushlm.private.program.generate import PrivateGenerator

    if not (folder / "server").is_dir() or not (folder / "client").is_dir():
        raise ValueError(f"{folder} does not hold server/ and client/: --mode simulate needs the folder that `hushlm export` wrote.")
    description = load_description(folder / "server")
    tokenizer = load_tokenizer(folder / "client", load_description(folder / "client"))
    tokens = encode_prompt(tokenizer, prompt, description.shape.context, new_tokens, truncate)
    start = time.perf_counter()
    engine = Engine(Party.CLIENT, replace(description.engine, simulate=True), None)
    generator = PrivateGenerator(engine, description, load_server_weights(folder / "server"))
    answers = tuple(generator.generate(tokens, len(tokens), new_tokens, reveal, choose=sampling.chooser(reveal)))
    seconds = time.perf_counter() - start
    ids = [answer.token for answer in answers if answer.token is not None]
    return _Result(tokenizer.decode(tokens), len(tokens), tokenizer.decode(ids), ids, answers, seconds)
