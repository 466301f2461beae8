"""The demo's private answer: a server process with the weights, a client process with the prompt, and nothing shared but a socket.
First they prepare the answer, then they compute it.

Each process gets only the files that its own machine would have: the server `server/` and `server-keys/`, the client `client/`,
`client-keys/` and, on standard input, the prompt.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hushlm.data import Tokens, TokenStore
from hushlm.data.tokenizer import Tokenizer
from hushlm.demo.demo_settings import DemoSettings
from hushlm.model import LanguageModel
from hushlm.training import load_checkpoint

__all__ = ["AnswerComparison", "answer_privately", "choose_prompt", "serving"]

HOST = "127.0.0.1"
READY = re.compile(r" on (\S+:\d+)[,.]")
SILENT_SECONDS = 600
"""How long either side may be silent: a busy machine needs its time."""

DRAIN_SECONDS = 5
"""How long a session may go on when the server is told to stop, which happens only if this program was stopped too."""

STOP_SECONDS = 20


@dataclass(frozen=True)
class AnswerComparison:
    """A private answer beside the plaintext model's.

    Attributes:
        architecture: the name of the model's architecture.
        found: the document of `hushlm ask --json`, see `hushlm.private.PrivateAnswer.to_dict`.
        prepared: the document of `hushlm prepare --json`, of what was computed before there was a question; None if nothing was.
        prompt_text: the text that was asked.
        prompt_tokens: how many tokens it has.
        plaintext_tokens: ids of the plaintext model's greedy answer.
        smallest_margin: least difference of the two largest logits along that answer; where it is tiny, the two answers may differ.
        session_seconds: how long server and client ran, from the server's start to the answer.
        server_folder: the export's part for the server.
        client_folder: the export's part for the client.
    """

    architecture: str
    found: dict[str, Any]
    prepared: dict[str, Any] | None
    prompt_text: str
    prompt_tokens: int
    plaintext_tokens: list[int]
    smallest_margin: float
    session_seconds: float
    server_folder: Path
    client_folder: Path

    @property
    def tokens(self) -> list[int]:
        """Ids of the private answer."""
        return [int(token) for token in self.found["tokens"]]

    @property
    def tokens_equal_plaintext(self) -> bool:
        """Whether both answers are the same tokens."""
        return self.tokens == self.plaintext_tokens

    def to_dict(self) -> dict[str, Any]:
        """The keys of summary.json: bytes and seconds are those of the passes that made the tokens, the set-up's apart."""
        found, set_up = self.found, self.found["set_up"]
        return {
            "architecture": self.architecture,
            "tokens_equal_plaintext": self.tokens_equal_plaintext,
            "prompt_tokens": self.prompt_tokens,
            "prompt_text": self.prompt_text,
            "text": found["text"],
            "tokens": self.tokens,
            "plaintext_tokens": self.plaintext_tokens,
            "smallest_margin": self.smallest_margin,
            "bytes_client_to_server": found["bytes_client_to_server"],
            "bytes_server_to_client": found["bytes_server_to_client"],
            "messages": found["messages"],
            "predicted_bytes": found["expected_bytes"],
            "setup_bytes": set_up["bytes_client_to_server"] + set_up["bytes_server_to_client"],
            "seconds": found["seconds"],
            **self._preparation(),
            "session_seconds": self.session_seconds,
            "server_folder": str(self.server_folder),
            "client_folder": str(self.client_folder),
        }

    def _preparation(self) -> dict[str, Any]:
        if self.prepared is None:
            return {}
        moved = self.prepared["bytes_client_to_server"] + self.prepared["bytes_server_to_client"]
        return {"prepared_bytes": moved, "prepared_seconds": self.prepared["seconds"]}


def answer_privately(
    checkpoint: Path, store: TokenStore, settings: DemoSettings, say: Callable[[str], None], prepare: bool = True
) -> AnswerComparison:
    """Export a checkpoint and continue a held-out prompt in two processes.

    Args:
        checkpoint: folder of the model.
        store: the corpus, from whose validation split the prompt comes.
        settings: the demo's.
        say: prints a line.
        prepare: whether the two prepare the answer first, before there is a question.

    Raises:
        ValueError: one sentence, if the export, the server or the client fails.
    """
    from hushlm.private.keys.certificates import create_keys
    from hushlm.private.program.export_model import export_model

    folder = settings.output / "private"
    loaded = load_checkpoint(checkpoint)
    held_out = _held_out(store, loaded.tokenizer)
    prompt = choose_prompt(held_out, loaded.tokenizer, settings.prompt_tokens, settings.seed, settings.prompt_beginnings)
    text = loaded.tokenizer.decode(prompt)
    plaintext = loaded.model.greedy(prompt, settings.new_tokens)

    report = export_model(loaded, folder)
    absorbed = f", FFNs absorbed in layers {', '.join(map(str, report.absorbed_ffns))}" if report.absorbed_ffns else ""
    say(f"  exported to {folder}: server/ ({report.server_bytes / 1e6:.1f} MB of weights) and client/ (no weights){absorbed}")
    keys = folder / "keys"
    for old in (keys, *(folder / f"{party}-{what}" for party in ("server", "client") for what in ("keys", "prepared"))):
        shutil.rmtree(old, ignore_errors=True)
    create_keys(keys, [HOST])
    for party in ("server", "client"):
        _hand_over(keys, folder / f"{party}-keys", party)
    say(f"  made certificates for server and client; a prompt of {len(prompt)} tokens, {settings.new_tokens} to come")

    begin = time.monotonic()
    with serving(folder) as address:
        prepared = _prepare(folder, address, len(prompt), settings.new_tokens) if prepare else None
        found = _ask(folder, address, text, settings.new_tokens, "only" if prepare else "never")
    return AnswerComparison(
        architecture=loaded.config.architecture,
        found=found,
        prepared=prepared,
        prompt_text=text,
        prompt_tokens=len(prompt),
        plaintext_tokens=plaintext,
        smallest_margin=smallest_margin(loaded.model, prompt, plaintext),
        session_seconds=round(time.monotonic() - begin, 1),
        server_folder=folder / "server",
        client_folder=folder / "client",
    )


def _held_out(store: TokenStore, tokenizer: Tokenizer) -> Tokens:
    """The validation split in a model's own tokens."""
    tokens = store.tokens["validation"]
    if tokenizer.to_str() == store.tokenizer.to_str():
        return tokens
    return np.array(tokenizer.encode(store.tokenizer.decode(tokens[:].tolist())).ids)


def choose_prompt(tokens: Tokens, tokenizer: Tokenizer, length: int, seed: int, beginnings: tuple[str, ...] = ("",)) -> list[int]:
    """A stretch of text that starts a line and survives the way through text: its characters give back the same tokens.

    Args:
        tokens: token ids of the validation split.
        tokenizer: the tokenizer that made them.
        length: how many tokens the stretch has.
        seed: decides which of the stretches is taken.
        beginnings: what its text may begin with.

    Raises:
        ValueError: if the split has none.
    """
    ends = np.flatnonzero([tokenizer.decode([token]).endswith("\n") for token in range(tokenizer.get_vocab_size())])
    starts = np.flatnonzero(np.isin(tokens[: len(tokens) - length], ends)) + 1
    for start in np.random.default_rng(seed).permutation(starts):
        stretch = [int(token) for token in tokens[start : start + length]]
        text = tokenizer.decode(stretch)
        if not text.startswith(beginnings):
            continue
        if text.isascii() and "\0" not in text and text.strip() and tokenizer.encode(text).ids == stretch:
            return stretch
    raise ValueError(f"The validation split holds no stretch of {length} plain tokens to ask about: use more text.")


def smallest_margin(model: LanguageModel, prompt: list[int], answer: list[int]) -> float:
    """The least difference of the two largest logits along a greedy answer: below what fixed point moves logits by, either may win."""
    with torch.inference_mode():
        logits_TV = model(torch.tensor([prompt + answer[:-1]])).logits_BTV[0, len(prompt) - 1 :]
    largest_T2 = logits_TV.topk(2, dim=-1).values
    return float((largest_T2[:, 0] - largest_T2[:, 1]).min())


def _hand_over(keys: Path, folder: Path, party: str) -> None:
    """The files of one party; the authority's private key stays where it is."""
    folder.mkdir(mode=0o700)
    shutil.copy(keys / "authority.pem", folder)
    for suffix in ("pem", "key"):
        (keys / f"{party}.{suffix}").rename(folder / f"{party}.{suffix}")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`hushlm serve` in a process of its own. It is stopped at the end, however the block ends, and stops itself if this process is killed.

    Args:
        folder: with server/ and server-keys/.

    Yields: its address.
    """
    log = folder / "server.log"
    options = ["--keys", str(folder / "server-keys"), "--listen", f"{HOST}:0", "--with-stdin"]
    options += ["--prepare-folder", str(folder / "server-prepared")]
    options += ["--silent-seconds", str(SILENT_SECONDS), "--drain-seconds", str(DRAIN_SECONDS)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "hushlm", "serve", str(folder / "server"), *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        ready = READY.search(process.stdout.readline())
        if ready is None:
            process.wait()
            raise ValueError(f"The demo's server did not start: {_last_line(log)} (log: {log})")
        yield ready[1]
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stdin.close()


def _prepare(folder: Path, address: str, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """What does not depend on the prompt: `hushlm prepare` for one answer."""
    lengths = ["--prompt-tokens", str(prompt_tokens), "--tokens-each", str(new_tokens)]
    return _client(folder, address, ["prepare", str(folder / "client"), "--answers", "1", *lengths])


def _ask(folder: Path, address: str, prompt: str, new_tokens: int, prepared: str) -> dict[str, Any]:
    """`hushlm ask`; `prepared` says whether from what was prepared ("only") or without ("never")."""
    words = ["ask", "-", "--model", str(folder / "client"), "--new-tokens", str(new_tokens), "--prepared", prepared]
    return _client(folder, address, words, prompt)


def _client(folder: Path, address: str, words: list[str], prompt: str = "") -> dict[str, Any]:
    """A command of the client's in a process of its own; its progress goes to our standard error. Returns: the document that it printed."""
    options = ["--server", address, "--keys", str(folder / "client-keys"), "--prepared-folder", str(folder / "client-prepared")]
    options += ["--silent-seconds", str(SILENT_SECONDS), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "hushlm", *words, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = process.communicate(prompt)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise ValueError(f"The demo's client gave no answer (exit code {process.returncode}); its reason stands above.")
    return json.loads(out)


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1].removeprefix("hushlm: ") if lines else "it said nothing."
