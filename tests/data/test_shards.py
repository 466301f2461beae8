"""Shards: one array in several files; the same bytes whatever the number of workers and however often the build was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hushlm.data.corpus as corpus_module
import hushlm.data.shards as shards_module
from hushlm.config import DataConfig
from hushlm.data import SPLITS, Sampler, TokenStore, fixed_batches, open_token_store
from hushlm.data.shards import ShardedTokens


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), data=st.data())
@settings(deadline=None)
def test_indexed_like_one_array(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint16)
    tokens = ShardedTokens(np.split(whole, np.cumsum(lengths)[:-1]))
    assert len(tokens) == len(whole)
    assert tokens.dtype == whole.dtype
    index = st.integers(-len(whole), len(whole) - 1)
    at = data.draw(index)
    assert tokens[at] == whole[at]
    assert np.asarray(tokens[at]).ndim == 0
    rows = np.array(data.draw(st.lists(index, min_size=1, max_size=8)))[:, None] + np.zeros(3, dtype=int)
    assert np.array_equal(tokens[rows], whole[rows])
    cut = slice(data.draw(st.none() | index), data.draw(st.none() | index), data.draw(st.sampled_from([None, 1, 2, -1])))
    assert np.array_equal(tokens[cut], whole[cut])


def test_positions_outside_are_refused() -> None:
    tokens = ShardedTokens([np.arange(3, dtype=np.uint16), np.arange(2, dtype=np.uint16)])
    for index in (5, -6, np.array([0, 5])):
        with pytest.raises(IndexError):
            tokens[index]


@pytest.fixture
def config(tmp_path: Path, text_folder: Path) -> DataConfig:
    return DataConfig(corpus=str(text_folder), validation_share=0.1, cache=tmp_path / "cache")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts of a few files, and pieces of a file or two."""
    monkeypatch.setattr(corpus_module, "PART_BYTES", 8_000)
    monkeypatch.setattr(shards_module, "PIECE_BYTES", 3_000)


def contents(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.mark.usefixtures("small")
def test_many_shards_hold_what_one_does(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    many = open_token_store(config)
    monkeypatch.undo()
    one = open_token_store(replace(config, cache=config.cache.with_name("other")))
    assert len(list(many.folder.glob("train-*.npy"))) > 10
    assert len(list(one.folder.glob("train-*.npy"))) == 1
    assert many.fingerprint == one.fingerprint
    assert (many.documents, many.bytes, many.split_bytes) == (one.documents, one.bytes, one.split_bytes)
    for split in SPLITS:
        assert np.array_equal(many.tokens[split][:], one.tokens[split][:])
    ours, theirs = (Sampler(store.tokens["train"], 4, 50, 0) for store in (many, one))
    for _ in range(5):
        assert ours.next().equal(theirs.next())
    windows = [list(fixed_batches(store.tokens["validation"], 4, 50, 3)) for store in (many, one)]
    assert all(a.equal(b) for a, b in zip(*windows, strict=True))


class InterruptedBuildError(Exception):
    pass


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_an_interrupted_build_goes_on_to_the_same_bytes(config: DataConfig, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, tokenizer=tokenizer)
    whole = contents(open_token_store(replace(config, cache=config.cache.with_name("other"))))
    written: list[str] = []
    write = shards_module.write_atomic

    def failing(path: Path, data: bytes | str) -> None:
        if len(written) % 5 == 4:
            written.append("")  # so that the next attempt gets further
            raise InterruptedBuildError
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(shards_module, "write_atomic", failing)
    attempts = 0
    while True:
        try:
            store = open_token_store(config)
            break
        except InterruptedBuildError:
            attempts += 1
            assert not [path for path in config.cache.iterdir() if not path.name.startswith(".")]
    assert attempts > 3
    assert contents(store) == whole
    assert [path.name for path in config.cache.iterdir()] == [store.folder.name]
    notes = [name for name in written if name.endswith(".json")]
    assert len(notes) == len(set(notes)), "a finished piece was made again"


@pytest.mark.slow
def test_several_workers_make_the_same_bytes(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "PART_BYTES", 8_000)
    one = contents(open_token_store(config))
    two = contents(open_token_store(replace(config, cache=config.cache.with_name("other"), workers=2)))
    assert one == two
    assert json.loads(one["store.json"])["splits"]["train"]["shards"] > 5
