"""Tokenizers: any text comes back exactly, and training is deterministic."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from hushlm.data import make_tokenizer
from hushlm.data.tokenizer import separator_id
from hushlm.data.tokenizer_choice import tokenizer_file

TEXTS = [Path(__file__).read_text(), "def f(x):\n\treturn x + 1\n" * 5, "class A:\r\n    pass  # été\n" * 5, "import os, sys\n" * 20]
BYTES = make_tokenizer("bytes", [])
BPE = make_tokenizer("bpe:300", TEXTS)

anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200)


@given(anything)
@settings(deadline=None)
def test_bytes_are_the_utf8_bytes(text: str) -> None:
    ids = BYTES.encode(text).ids
    assert ids == list(text.encode())
    assert BYTES.decode(ids, skip_special_tokens=False) == text


@given(anything)
@settings(deadline=None)
def test_bpe_round_trip(text: str) -> None:
    assert BPE.decode(BPE.encode(text).ids, skip_special_tokens=False) == text


def test_vocabularies() -> None:
    assert BYTES.get_vocab_size() == 256
    assert separator_id(BYTES) == 0
    assert BPE.get_vocab_size() == 300
    assert sorted(BPE.get_vocab().values()) == list(range(300))
    assert len(BPE.encode(TEXTS[0]).ids) < 0.8 * len(TEXTS[0])
    assert BPE.decode([separator_id(BPE)]) == "\0"


def test_training_is_deterministic() -> None:
    assert make_tokenizer("bpe:300", list(TEXTS)).to_str() == BPE.to_str()
    assert make_tokenizer("bpe:300", TEXTS[:1]).to_str() != BPE.to_str()


def test_ready_tokenizer(tmp_path: Path) -> None:
    BPE.save(str(tmp_path / "tokenizer.json"))
    assert make_tokenizer(str(tmp_path / "tokenizer.json"), []).to_str() == BPE.to_str()


def test_end_of_text_token_is_preferred() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"\u0100": 0, "a": 1, "<|endoftext|>": 2}, merges=[]))
    assert separator_id(tokenizer) == 2


@pytest.mark.parametrize("spec", ["bpe:", "bpe:256", "bpe:-5", "bpe:1e3", "bpe:²", "byte", "nowhere/tokenizer.json", ""])
def test_malformed_names(spec: str) -> None:
    with pytest.raises(ValueError):
        tokenizer_file(spec)
    with pytest.raises(ValueError):
        make_tokenizer(spec, TEXTS)


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not JSON")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        make_tokenizer(str(tmp_path / "text"), [])
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "no-separator.json"))
    with pytest.raises(ValueError, match="ends a document"):
        make_tokenizer(str(tmp_path / "no-separator.json"), [])
