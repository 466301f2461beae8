"""The same question answered without a server: by the checkpoint itself, or by the private program in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.answer import AnswerMode, PrivateAnswer
from hushlm.private.client.prompts import encode_prompt, load_tokenizer
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer

__all__ = ["answer_plainly", "answer_simulated"]


def answer_plainly(
    checkpoint: Path, prompt: str, new_tokens: int, reveal: RevealPolicy = RevealPolicy(), truncate: bool = False
) -> PrivateAnswer:
    """Continue a prompt with the checkpoint itself, greedily and in float32.

    Args:
        checkpoint: folder written by `hushlm train`.
        prompt: the text to continue.
        new_tokens: how many tokens to generate.
        reveal: must be the default, for the model gives tokens alone.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.

    Raises:
        ValueError: one sentence: no checkpoint, another policy, or a prompt that is empty or too long.
    """
    from hushlm.training.checkpoint import load_checkpoint

    if reveal.kind != "token":
        raise ValueError("--mode plain gives tokens: leave --reveal out, or use --mode simulate.")
    loaded = load_checkpoint(checkpoint)
    prompt_tokens = encode_prompt(loaded.tokenizer, prompt, loaded.model.shape.context, new_tokens, truncate)
    start = time.perf_counter()
    tokens = loaded.model.greedy(prompt_tokens, new_tokens)
    return _local_answer("plain", loaded.tokenizer, prompt_tokens, tokens, (), reveal, time.perf_counter() - start)


def answer_simulated(
    export: Path,
    prompt: str,
    new_tokens: int,
    reveal: RevealPolicy = RevealPolicy(),
    truncate: bool = False,
    sampling: Sampling = Sampling(),
) -> PrivateAnswer:
    """Continue a prompt with the private program in the clear, in one process and with the engine's fixed-point numbers.

    Args:
        export: folder written by `hushlm export`, which holds the weights.
        prompt: the text to continue.
        new_tokens: how many tokens to generate.
        reveal: what is opened of each step.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
        sampling: how the next token is chosen where top-k or logits are revealed.

    Raises:
        ValueError: one sentence: not an export, no engine, or a prompt that is empty or too long.
    """
    from hushlm.private.engine import Engine, Party
    from hushlm.private.program.description import load_server_weights
    from hushlm.private.program.generate import PrivateGenerator

    if not (export / "server").is_dir() or not (export / "client").is_dir():
        raise ValueError(f"{export} does not hold server/ and client/: --mode simulate needs the folder that `hushlm export` wrote.")
    description = load_description(export / "server")
    tokenizer = load_tokenizer(export / "client", load_description(export / "client"))
    prompt_tokens = encode_prompt(tokenizer, prompt, description.shape.context, new_tokens, truncate)
    start = time.perf_counter()
    engine = Engine(Party.CLIENT, replace(description.engine, simulate=True), None)
    generator = PrivateGenerator(engine, description, load_server_weights(export / "server"))
    answers = tuple(generator.generate(prompt_tokens, len(prompt_tokens), new_tokens, reveal, choose=sampling.chooser(reveal)))
    seconds = time.perf_counter() - start
    tokens = [answer.token for answer in answers if answer.token is not None]
    return _local_answer("simulate", tokenizer, prompt_tokens, tokens, answers, reveal, seconds)


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
