"""Tables of rows, as CodeParrot's are: parquet and JSON-lines files through Hugging Face `datasets`, and the hub's own path."""

from __future__ import annotations

import gzip
import json
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")

import pyarrow as pa
import pyarrow.parquet as pq

import hushlm.data.corpus as corpus_module
import hushlm.data.rows as parts_module
import hushlm.data.shards as shards_module
from hushlm.config import DataConfig
from hushlm.data import SPLITS, open_corpus, open_token_store, split_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def rows_of(first: int, count: int) -> list[dict[str, Any]]:
    """With CodeParrot's columns."""
    return [
        {
            "repo_name": f"r{i % 7}",
            "path": f"m{i}.py",
            "copies": "1",
            "size": "9",
            "content": f"def f{i}():\n    return {i}\n" * 5,
            "license": "mit",
        }
        for i in range(first, first + count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty rows in three kinds of file, one row without text."""
    folder = tmp_path / "parrot"
    folder.mkdir()
    first = rows_of(0, 20)
    first[3]["content"] = None
    pq.write_table(pa.Table.from_pylist(first), folder / "a.parquet", row_group_size=6)
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(20, 20)))
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of(40, 20))
    return folder


def config_of(folder: Path, cache: str = "cache", **settings: Any) -> DataConfig:
    return DataConfig(corpus=str(folder), validation_share=0.1, cache=folder.parent / cache, **settings)


def test_rows_become_tokens_in_order(folder: Path) -> None:
    config = config_of(folder)
    store = open_token_store(config)
    assert store.documents == 59
    assert store.skipped == 1
    texts = {
        f"{name}#{i}": row["content"]
        for name, first in (("a.parquet", 0), ("b.jsonl", 20), ("c.jsonl.gz", 40))
        for i, row in enumerate(rows_of(first, 20))
        if (name, i) != ("a.parquet", 3)
    }
    for split in SPLITS:
        expected = "".join(text + "\0" for name, text in texts.items() if split_of(name, 0.1) == split)
        assert store.tokenizer.decode(store.tokens[split][:].tolist()) == expected
    assert store.fingerprint == open_token_store(replace(config, cache=folder.parent / "elsewhere")).fingerprint


def test_a_changed_table_is_another_corpus(folder: Path) -> None:
    before = open_corpus(config_of(folder)).sha256
    assert open_corpus(config_of(folder)).sha256 == before
    with (folder / "b.jsonl").open("a") as file:
        file.write(json.dumps({"content": "x = 1"}) + "\n")
    assert open_corpus(config_of(folder)).sha256 != before
    assert len(open_corpus(config_of(folder / "a.parquet")).parts) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_within_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Pieces end within a file; a build stopped there goes on at the row where it stopped, here with another number of workers."""
    monkeypatch.setattr(shards_module, "PIECE_BYTES", 1_000)
    whole = open_token_store(config_of(folder, "whole"))
    read: list[int] = []
    texts = parts_module.RowsPart.texts

    def counted(part: parts_module.RowsPart, skip: int = 0) -> Iterator[Any]:
        read.append(skip)
        for number, text in enumerate(texts(part, skip)):
            if part.name == "b.jsonl" and len(read) == 2 and number == 15:
                raise KeyboardInterrupt
            yield text

    monkeypatch.setattr(parts_module.RowsPart, "texts", counted)
    config = config_of(folder, workers=1)
    with pytest.raises(KeyboardInterrupt):
        open_token_store(config)
    monkeypatch.setattr(parts_module.RowsPart, "texts", texts) if workers == 2 else read.append(-1)
    store = open_token_store(replace(config, workers=workers))
    if workers == 1:
        assert 0 < read[3] < 15, "the part was begun again from its start"
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == {p.name: p.read_bytes() for p in whole.folder.iterdir()}


def test_columns_and_files_that_hold_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"code": "x = 1"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl has the columns code, .* 'content' or 'text'"):
        open_token_store(config_of(tmp_path / "x.jsonl"))
    (tmp_path / "y.parquet").write_bytes(b"not a table")
    with pytest.raises(ValueError, match=r"y\.parquet can't be read") as caught:
        open_token_store(config_of(tmp_path / "y.parquet"))
    assert "\n" not in str(caught.value)


def test_code_parrot_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's path on local files in its format: opened once to count its pieces, and then piece by piece."""
    import datasets
    import huggingface_hub

    shutil_free = sorted(str(path) for path in folder.iterdir() if path.suffix == ".parquet")
    pq.write_table(pa.Table.from_pylist(rows_of(60, 40)), folder / "d.parquet")
    load = datasets.load_dataset
    asked: list[tuple[str, str]] = []

    def local(name: str, *, split: str, streaming: bool, revision: str) -> Any:
        asked.append((name, revision))
        return load("parquet", data_files=[*shutil_free, str(folder / "d.parquet")], split=split, streaming=streaming)

    def dataset_info(hub: object, name: str) -> Any:
        return types.SimpleNamespace(sha="0123abcd")

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    store = open_token_store(DataConfig(corpus="codeparrot", validation_share=0.1, cache=folder.parent / "cache"))
    assert store.documents == 59
    assert store.corpus_name == f"{corpus_module.CODEPARROT} at 0123abcd"
    assert set(asked) == {(corpus_module.CODEPARROT, "0123abcd")}
    assert len(asked) == 3  # two files, two pieces


def test_code_parrot_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def dataset_info(hub: object, name: str) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(ValueError, match=r"could not be opened on the Hugging Face hub .*folder of its") as caught:
        open_corpus(DataConfig(corpus="codeparrot", cache=tmp_path))
    assert "\n" not in str(caught.value)
