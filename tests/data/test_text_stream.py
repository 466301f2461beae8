"""Text token by token equals decoding at once, for every kind of tokenizer and any sequence of tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from hushlm.data import TextStream, Tokenizer, make_tokenizer

TEXTS = ["def f(x):\n\treturn x + 1\n" * 5, "été 東京 🙂 " * 9]
WORDS = [
    "▁",
    "a",
    "b",
    "▁a",
    "▁b",
    "ab",
    "▁ab",
    "é",
    "▁é",
    ".",
    ",",
    "▁.",
    "京",
    "##c",
    "n't",
    "'s",
    "do",
    " ",
    "",
    "</w>",
    "a</w>",
    "b</w>c",
    "|",
]


def byte_fallback() -> tokenizers.Tokenizer:
    """As LLaMA's: spaces are "▁", and a character without a token falls into its bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a"), ("a", "b")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer


def words(decoder: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({token: number for number, token in enumerate(WORDS)}, unk_token="a"))
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = make_tokenizer("bpe:300", TEXTS).library
    tokenizer.add_special_tokens(["<|endoftext|>", "<東京>"])
    return tokenizer


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "bytes": lambda: make_tokenizer("bytes", []).library,
    "byte-level BPE": byte_level,
    "byte fallback": byte_fallback,
    "WordPiece": lambda: words(decoders.WordPiece(prefix="##", cleanup=True)),
    "Metaspace": lambda: words(decoders.Metaspace()),
    "BPE with suffixes": lambda: words(decoders.BPEDecoder()),
    "CTC": lambda: words(decoders.CTC(pad_token="a", word_delimiter_token="|")),
    "no decoder": lambda: words(None),
    "Replace across tokens": lambda: words(decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")])),
    "WordPiece after Fuse": lambda: words(decoders.Sequence([decoders.Fuse(), decoders.WordPiece()])),
    "pattern in tokens": lambda: words(
        decoders.Sequence([decoders.Replace(Regex("a+"), "東"), decoders.Fuse(), decoders.Strip("b", 1, 0)])
    ),
}
SILENT_TO_THE_END = {"Replace across tokens", "WordPiece after Fuse"}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_decoding_at_once(kind: str) -> None:
    """Eight hundred random sequences of each kind, half of them of rare tokens, numbers without a token among them."""
    library = KINDS[kind]()
    tokenizer, generator = Tokenizer(library), random.Random(0)
    ids = [*library.get_vocab().values(), tokenizer.vocabulary + 5]
    spoke = 0
    for _ in range(800):
        some = ids if generator.random() < 0.5 else generator.sample(ids, min(len(ids), 12))
        sequence = [generator.choice(some) for _ in range(generator.randint(0, 14))]
        whole, stream, seen = tokenizer.decode(sequence), TextStream(library), ""
        for token in sequence:
            stream.push(token)
            assert whole.startswith(stream.text), sequence
            assert stream.text.startswith(seen), sequence
            seen = stream.text
        spoke += bool(seen)
        stream.finish()
        assert stream.text == whole, sequence
    assert (spoke < 20) == (kind in SILENT_TO_THE_END)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
@pytest.mark.parametrize("tokenizer", [Tokenizer(byte_fallback()), Tokenizer(byte_level())], ids=["byte fallback", "byte level"])
def test_text_comes_without_delay(tokenizer: Tokenizer, text: str) -> None:
    """Nothing but the bytes of one character, or a run of byte tokens, is ever held back."""
    stream = TextStream(tokenizer)
    ids = tokenizer.encode(text).ids
    for end, token in enumerate(ids, start=1):
        stream.push(token)
        name = tokenizer.id_to_token(token)
        if name is not None and not name.startswith("<0x") and not (whole := tokenizer.decode(ids[:end])).endswith("\ufffd"):
            assert stream.text == whole


def test_chains_nobody_has_thought_of_hold_everything_back() -> None:
    library = words(None)
    text = json.loads(library.to_str())
    ctc = {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True}
    text["decoder"] = {"type": "Sequence", "decoders": [ctc, {"type": "ByteFallback"}]}
    tokenizer = Tokenizer.from_str(json.dumps(text))
    stream = TextStream(tokenizer)
    stream.push(2)
    assert stream.text == ""
    stream.finish()
    assert stream.text == "b"


def test_pre_tokenizers_play_no_part() -> None:
    library = words(decoders.Metaspace())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    stream = TextStream(library)
    for token in library.encode("a b ab").ids:
        stream.push(token)
    assert stream.text == library.decode(library.encode("a b ab").ids)
