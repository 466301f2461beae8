"""A model that guesses: it continues the text it is shown, however long that is, and only for a model with its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hushlm.box import MODEL
from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.data.tokenizer import Tokenizer
from hushlm.private.program.draft_model import check_draft_model, model_guesses
from hushlm.training import load_checkpoint, train

Tiny = Callable[..., RunConfig]


def test_it_continues_the_last_tokens_that_it_can_read(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path) -> None:
    config = replace(tiny("SM2+R"), output=tmp_path / "model")
    train(config, tiny_store)
    model, guess = load_checkpoint(config.output).model, model_guesses(config.output)
    context = model.shape.context
    text = tiny_store.tokens["validation"][: 2 * context].tolist()
    assert guess(text[:5], 3) == model.greedy(text[:5], 3)
    assert guess(text, 3) == model.greedy(text[3 - context :], 3)
    assert len(guess(text, 2 * context)) == context - 1, "fewer than asked for are allowed"


def test_a_guesser_shares_the_tokenizer(tiny: Tiny, tiny_store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_draft_model(Path("box"), Tokenizer.from_file(MODEL / "tokenizer.json")) == MODEL
    with pytest.raises(ValueError, match="box has another tokenizer"):
        check_draft_model(Path("box"), tiny_store.tokenizer)
    with pytest.raises(ValueError, match="nowhere is no checkpoint"):
        check_draft_model(Path("nowhere"), tiny_store.tokenizer)


@pytest.mark.parametrize("options", [["--mode", "plain", "--model", "box"], ["--prepared", "never", "--model", "export", "--keys", "keys"]])
def test_it_is_not_ignored_where_nothing_is_guessed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "hello", "--draft", "box", *options]) == 2
    assert capsys.readouterr().err == "hushlm: --draft guesses tokens of prepared answers between two parties: leave it out.\n"
