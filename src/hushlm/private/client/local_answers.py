"""The same questions answered without a server: by the checkpoint itself, or by the private program in one process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hushlm.data.tokenizer import Tokenizer
from hushlm.files import MANIFEST
from hushlm.private.client.answer import AnswerMode, PrivateAnswer
from hushlm.private.client.candidates import candidate_tokens, named_answer, policy_of
from hushlm.private.client.progress import OnProgress
from hushlm.private.client.prompts import encode_prompt, load_tokenizer
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer

__all__ = ["PlainModel", "SimulatedModel"]


class PlainModel:
    """The checkpoint itself, greedy and in float32.

    Args:
        folder: written by `hushlm train` or `hushlm import`.

    Attributes:
        tokenizer: the model's.
        context: how many tokens it reads and writes at most.
        identity: of the model, in hexadecimal.

    Raises:
        ValueError: one sentence, if it is no checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        from hushlm.training.checkpoint import load_checkpoint

        loaded = load_checkpoint(folder)
        self._model = loaded.model.eval()
        self.tokenizer, self.context = loaded.tokenizer, loaded.model.shape.context
        self.identity = hashlib.sha256((loaded.folder / MANIFEST).read_bytes()).hexdigest()

    def ask(
        self,
        prompt: str,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        truncate: bool = False,
        on_progress: OnProgress | None = None,
        sampling: Sampling = Sampling(),
    ) -> PrivateAnswer:
        """Continue a prompt.

        Args:
            prompt: the text to continue.
            new_tokens: how many tokens to generate.
            reveal, sampling: must be the default, for the model gives tokens alone.
            truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
            on_progress: never called: there is no session.

        Raises:
            ValueError: one sentence: another policy, or a prompt that is empty or too long.
        """
        if reveal.kind != "token" or sampling.temperature:
            raise ValueError("--mode plain gives tokens: leave --reveal out, or use --mode simulate.")
        prompt_tokens = encode_prompt(self.tokenizer, prompt, self.context, new_tokens, truncate)
        start = time.perf_counter()
        tokens = self._model.greedy(prompt_tokens, new_tokens)
        return _local_answer("plain", self.tokenizer, prompt_tokens, tokens, (), reveal, time.perf_counter() - start)

    def score(self, prompt: str, candidates: Sequence[str], truncate: bool = False, on_progress: OnProgress | None = None) -> PrivateAnswer:
        """The likeliest of some candidates after a prompt; arguments and errors as those of `Client.score`."""
        import torch

        named = candidate_tokens(self.tokenizer, prompt, candidates)
        policy = policy_of(named)
        prompt_tokens = encode_prompt(self.tokenizer, prompt, self.context, 1, truncate)
        start = time.perf_counter()
        with torch.no_grad():
            logits_V = self._model(torch.tensor([prompt_tokens])).logits_BTV[0, -1]
        token = max(policy.candidates, key=lambda candidate: float(logits_V[candidate]))
        answer = _local_answer("plain", self.tokenizer, prompt_tokens, [token], (), policy, time.perf_counter() - start)
        return named_answer(answer, named)


class SimulatedModel:
    """The private program in the clear, in one process and with the engine's fixed-point numbers.

    Args:
        export: folder written by `hushlm export`, which holds the weights.

    Attributes:
        tokenizer, context, identity: as those of `PlainModel`.

    Raises:
        ValueError: one sentence: not an export, or no engine.
    """

    def __init__(self, export: Path) -> None:
        from hushlm.private.engine import Engine, Party
        from hushlm.private.program.description import load_server_weights
        from hushlm.private.program.generate import PrivateGenerator

        if not (export / "server").is_dir() or not (export / "client").is_dir():
            raise ValueError(f"{export} does not hold server/ and client/: --mode simulate needs the folder that `hushlm export` wrote.")
        description = load_description(export / "server")
        self.tokenizer = load_tokenizer(export / "client", load_description(export / "client"))
        self.context, self.identity = description.shape.context, description.fingerprint
        engine = Engine(Party.CLIENT, replace(description.engine, simulate=True), None)
        self._generator = PrivateGenerator(engine, description, load_server_weights(export / "server"))

    def ask(
        self,
        prompt: str,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        truncate: bool = False,
        on_progress: OnProgress | None = None,
        sampling: Sampling = Sampling(),
    ) -> PrivateAnswer:
        """Continue a prompt.

        Args:
            prompt: the text to continue.
            new_tokens: how many tokens to generate.
            reveal: what is opened of each step.
            truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
            on_progress: never called: there is no session.
            sampling: how the next token is chosen where top-k or logits are revealed.

        Raises:
            ValueError: one sentence, for a prompt that is empty or too long.
        """
        prompt_tokens = encode_prompt(self.tokenizer, prompt, self.context, new_tokens, truncate)
        start = time.perf_counter()
        choose = sampling.chooser(reveal)
        answers = tuple(self._generator.generate(prompt_tokens, len(prompt_tokens), new_tokens, reveal, choose=choose))
        seconds = time.perf_counter() - start
        tokens = [answer.token for answer in answers if answer.token is not None]
        return _local_answer("simulate", self.tokenizer, prompt_tokens, tokens, answers, reveal, seconds)

    def score(self, prompt: str, candidates: Sequence[str], truncate: bool = False, on_progress: OnProgress | None = None) -> PrivateAnswer:
        """The likeliest of some candidates after a prompt; arguments and errors as those of `Client.score`."""
        named = candidate_tokens(self.tokenizer, prompt, candidates)
        return named_answer(self.ask(prompt, 1, policy_of(named), truncate), named)


def _local_answer(
    mode: AnswerMode,
    tokenizer: Tokenizer,
    prompt_tokens: Sequence[int],
    tokens: list[int],
    answers: tuple[TokenAnswer, ...],
    reveal: RevealPolicy,
    seconds: float,
) -> PrivateAnswer:
    return PrivateAnswer(
        prompt_tokens=tuple(prompt_tokens),
        tokens=tuple(tokens),
        text=tokenizer.decode(tokens),
        answers=answers,
        set_up=Traffic(),
        query=Traffic(),
        expected_bytes=0,
        set_up_seconds=0.0,
        query_seconds=seconds,
        prompt_text=tokenizer.decode(list(prompt_tokens)),
        reveal=reveal,
        mode=mode,
    )
