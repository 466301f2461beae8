"""CHECKPOINT WORDS...: `hushlm WORDS` whose private sessions are answered in the clear, here, by the model of a checkpoint.

For tests of what programs make of the proxy's answers: everything but the session is the real thing. Tokens come slowly, and the comments
that hold a stream open come often, as they do where a session takes minutes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from hushlm.cli.main import main
from hushlm.private.client.client import Client
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.training import load_checkpoint

TOKEN_SECONDS, BEAT_SECONDS = 0.5, 0.2


def run(checkpoint: Path, words: list[str]) -> int:
    """Returns: the command's exit code."""
    model = load_checkpoint(checkpoint).model

    async def events(_: Client, prompt: Sequence[int], new_tokens: int, *__: Any) -> AsyncGenerator[TokenAnswer, None]:
        for token in model.greedy(list(prompt), new_tokens):
            await asyncio.sleep(TOKEN_SECONDS)
            yield TokenAnswer(token, None, None, Traffic())

    with mock.patch.object(Client, "events", events), mock.patch("hushlm.proxy.answer_response.BEAT_SECONDS", BEAT_SECONDS):
        return main(words)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
