"""Tokenizer files as others save them: what they carry with them changes nothing, and what is broken is said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from hushlm.config import DataConfig
from hushlm.data import SPLITS, Tokenizer, make_tokenizer, open_token_store
from hushlm.data.tokenizer_choice import file_key

TEXT = "The kettle is on the river stone; the lamp is on the kettle. " * 40


def plain(dropout: float | None = None) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<pad>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    )
    tokenizer.model.dropout = dropout
    return tokenizer


def truncating() -> tokenizers.Tokenizer:
    tokenizer = plain()
    tokenizer.enable_truncation(max_length=64)
    return tokenizer


def padding() -> tokenizers.Tokenizer:
    tokenizer = plain()
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=2048)
    return tokenizer


def templated() -> tokenizers.Tokenizer:
    tokenizer = plain()
    tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    return tokenizer


KINDS = {"truncation": truncating, "padding": padding, "template": templated, "dropout": lambda: plain(dropout=0.3)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_files_state_changes_no_token(kind: str, tmp_path: Path, text_folder: Path) -> None:
    """All text and nothing else, in the tokens of a store and in those of a prompt; and so on every later road in."""
    plain().save(str(tmp_path / "plain.json"))
    KINDS[kind]().save(str(tmp_path / "other.json"))
    config = DataConfig(corpus=str(text_folder), validation_share=0.1, cache=tmp_path / "cache", tokenizer=str(tmp_path / "plain.json"))
    wanted = open_token_store(config)
    store = open_token_store(replace(config, tokenizer=str(tmp_path / "other.json")))
    as_saved = hashlib.sha256((tmp_path / "other.json").read_bytes()).hexdigest()
    assert (file_key(tmp_path / "other.json") == as_saved) == (kind == "template")  # a store made with the state is not opened again
    for split in SPLITS:
        assert np.asarray(store.tokens[split]).tolist() == np.asarray(wanted.tokens[split]).tolist()
    again = Tokenizer.from_str(store.tokenizer.to_str())
    for tokenizer in (store.tokenizer, again, Tokenizer(KINDS[kind]())):
        for _ in range(3):  # what is left out at random shows
            assert tokenizer.encode(TEXT).ids == wanted.tokenizer.encode(TEXT).ids
        assert [ids.tolist() for ids in tokenizer.encode_batch([TEXT])] == [wanted.tokenizer.encode(TEXT).ids]


def test_the_librarys_own_tokenizer_is_left_alone() -> None:
    library = truncating()
    Tokenizer(library).encode(TEXT)
    assert library.truncation is not None


def test_special_tokens_are_never_added_and_never_left_out() -> None:
    tokenizer = Tokenizer(templated())
    ids = tokenizer.encode("lamp").ids
    assert tokenizer.decode(ids) == "lamp"
    assert tokenizer.decode([0, *ids, 0]) == "<|endoftext|>lamp<|endoftext|>"


@pytest.mark.parametrize("content", ["{", "null", '{"model": 3}', "[" * 100_000, '{"model":' * 100_000, "\ufeff{}", "\0"])
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json that") as caught:
        make_tokenizer(str(path), [])
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        Tokenizer.from_file(path)


def test_what_is_no_text_is_refused_by_name() -> None:
    for tokenizer in (make_tokenizer("bytes", []), Tokenizer(plain())):
        for encode in (tokenizer.encode, lambda text, tokenizer=tokenizer: tokenizer.encode_batch(["fine", text])):
            with pytest.raises(ValueError, match=r"half a character \(the lone surrogate U\+D83D after 5 characters\)"):
                encode("lone \ud83d half")
            with pytest.raises(ValueError, match=r"not UTF-8, it has the byte 0xE9 after 3 characters"):
                encode(b"caf\xe9".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("text", ["", "a", "ab" * 3000, "lamp " * 100_000, " " * 50_000])
@pytest.mark.parametrize("tokenizer", [make_tokenizer("bytes", []), Tokenizer(plain())], ids=["bytes", "bpe"])
def test_the_end_of_a_long_text_has_the_same_last_tokens(tokenizer: Tokenizer, text: str) -> None:
    whole = tokenizer.encode(text).ids
    ids, is_whole = tokenizer.encode_end(text, 100)
    assert ids[-100:] == whole[-100:]
    assert is_whole == (ids == whole)
    assert len(ids) > 100 or is_whole
    assert len(ids) <= 4096 or is_whole


@pytest.mark.skipif(os.name != "posix", reason="HOME means something on POSIX only")
def test_a_home_folder_that_nobody_knows() -> None:
    code = "import os, pwd\nos.environ.pop('HOME', None)\ndef nobody(*_): raise KeyError\npwd.getpwuid = nobody\n"
    code += "from hushlm.cli.main import main\nimport sys\nsys.exit(main(sys.argv[1:]))"
    for option, value in (("--data.corpus", "~/corpus"), ("--data.tokenizer", "~/tokenizer.json")):
        done = subprocess.run([sys.executable, "-c", code, "train", option, value], capture_output=True, text=True)
        assert done.returncode == 2
        assert "home folder that is not known here" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_file_is_json_as_before(tmp_path: Path) -> None:
    """A tokenizer without state is written as the library writes it, so that recorded hashes stay."""
    assert Tokenizer(plain()).to_str() == plain().to_str()
    assert json.loads(Tokenizer(truncating()).to_str()) == json.loads(plain().to_str())


def test_bytes_need_no_search() -> None:
    """The short way of the tokenizer "bytes" gives what the library gives; no other tokenizer takes it."""
    tokenizer = make_tokenizer("bytes", [])
    assert tokenizer.is_bytes
    for text in ("", "\0", "a\r\n  b\t", TEXT, "café 東京 \N{GRINNING FACE}", "".join(map(chr, range(1, 0x800)))):
        [ids] = tokenizer.encode_batch([text], np.uint16)
        assert ids.dtype == np.uint16
        assert ids.tolist() == tokenizer.library.encode(text).ids == list(text.encode())
    assert not Tokenizer(plain()).is_bytes
    assert not make_tokenizer("bpe:300", [TEXT]).is_bytes


def test_a_character_that_would_be_lost_is_refused() -> None:
    """A BPE without a token for unknown characters leaves them out and says nothing; its file stays as it is."""
    library = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "</s>": 3}, merges=[("a", "b")]))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    assert library.encode("ab é a").ids == [2, 0]
    tokenizer = Tokenizer(library)
    assert tokenizer.encode("ab a").ids == [2, 0]
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text]), lambda text: tokenizer.encode_end(text, 4)):
        with pytest.raises(ValueError, match="the character would be lost"):
            encode("ab é a")
    assert tokenizer.to_str() == library.to_str()
    for model in (models.WordLevel({"a": 0}), models.WordPiece({"a": 0}, unk_token="[UNK]"), models.Unigram([("a", -1.0)])):
        with pytest.raises(ValueError, match="the character would be lost"):
            Tokenizer(tokenizers.Tokenizer(model)).encode("é")
