"""The token store: what is in it, that it is reused, rebuilt on a change, and refused when damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hushlm.config import DataConfig
from hushlm.data import SPLITS, open_corpus, open_token_store, split_of


@pytest.fixture
def config(tmp_path: Path, text_folder: Path) -> DataConfig:
    folder = tmp_path / "corpus"
    shutil.copytree(text_folder, folder)
    return DataConfig(corpus=str(folder), validation_share=0.1, cache=tmp_path / "cache")


def texts_of(config: DataConfig, split: str) -> list[str]:
    return [d.read() for d in open_corpus(config).documents if split_of(d.path, config.validation_share) == split]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_content(config: DataConfig, tokenizer: str) -> None:
    config = replace(config, tokenizer=tokenizer)
    store = open_token_store(config)
    assert store.documents == 40
    assert store.skipped == 0
    assert store.bytes == sum(store.split_bytes.values()) == open_corpus(config).bytes
    assert store.vocabulary == (256 if tokenizer == "bytes" else 300)
    for split in SPLITS:
        tokens = store.tokens[split]
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert not tokens.flags.writeable
        texts = texts_of(config, split)
        assert store.tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == "".join(text + "\0" for text in texts)
        assert store.split_bytes[split] == sum(len(text.encode()) for text in texts)


def test_large_vocabulary_takes_four_bytes(config: DataConfig, tmp_path: Path) -> None:
    tokenizer = open_token_store(config).tokenizer.library
    tokenizer.add_tokens([f"<unused {i}>" for i in range(2**16 - 256)])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    store = open_token_store(replace(config, tokenizer=str(tmp_path / "tokenizer.json")))
    assert store.vocabulary == 2**16 + 1
    assert store.tokens["train"].dtype == np.uint32
    assert store.tokens["train"][-1] == 2**16  # the separator, which two bytes cannot hold


def test_reused(config: DataConfig) -> None:
    calls: list[tuple[int, int]] = []
    first = open_token_store(config, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (40, 40)
    calls.clear()
    second = open_token_store(config, lambda done, total: calls.append((done, total)))
    assert calls == []
    assert first.fingerprint == second.fingerprint
    assert first.folder == second.folder


def test_same_corpus_elsewhere_gives_the_same_bytes(config: DataConfig, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "corpus"
    shutil.copytree(config.corpus, moved)
    one = open_token_store(config)
    other = open_token_store(replace(config, corpus=str(moved), cache=tmp_path / "cache2"))
    assert one.fingerprint == other.fingerprint
    assert one.folder.name == other.folder.name
    for path in one.folder.iterdir():
        assert path.read_bytes() == (other.folder / path.name).read_bytes(), path.name


def test_changed_corpus_gives_a_new_store(config: DataConfig) -> None:
    before = open_token_store(config)
    (Path(config.corpus) / "part00.txt").write_text("changed\n")
    after = open_token_store(config)
    assert after.fingerprint != before.fingerprint
    assert "changed" in "".join(after.tokenizer.decode(after.tokens[split][:].tolist()) for split in SPLITS)
    assert open_token_store(replace(config, validation_share=0.2)).fingerprint != after.fingerprint
    assert open_token_store(replace(config, tokenizer="bpe:260")).fingerprint != after.fingerprint


def test_split_is_stable_disjoint_and_sized() -> None:
    paths = [f"package{i % 7}/module{i}.py" for i in range(4000)]
    members = {split: {path for path in paths if split_of(path, 0.1) == split} for split in SPLITS}
    assert sum(map(len, members.values())) == len(paths)
    assert 0.08 < len(members["validation"]) / len(paths) < 0.12
    assert 0.08 < len(members["test"]) / len(paths) < 0.12
    # Known answers: the split is part of what a figure means, and must never move.
    assert [split_of(path, 0.05) for path in ("argparse.py", "chunk.py", "json/decoder.py")] == ["train", "validation", "train"]


def test_growing_the_share_only_moves_files_out_of_training() -> None:
    for i in range(2000):
        if split_of(str(i), 0.1) == "validation":
            assert split_of(str(i), 0.2) == "validation"
        if split_of(str(i), 0.2) == "train":
            assert split_of(str(i), 0.1) == "train"


def test_adding_a_file_moves_no_other(config: DataConfig) -> None:
    before = {split: texts_of(config, split) for split in SPLITS}
    (Path(config.corpus) / "more.txt").write_text("more")
    for split in SPLITS:
        assert [text for text in texts_of(config, split) if text != "more"] == before[split]


def test_too_few_files(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("once upon a time")
    with pytest.raises(ValueError, match="cut the text into more files"):
        open_token_store(DataConfig(corpus=str(tmp_path), cache=tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("*"))


FAULTS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda f: os.truncate(f / "train-00000.npy", 1000),
    "flipped": lambda f: (f / "test-00000.npy").write_bytes((f / "test-00000.npy").read_bytes()[:-1] + b"\x07"),
    "removed": lambda f: (f / "store.json").unlink(),
    "added": lambda f: (f / "notes.txt").write_text("mine"),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "torn manifest": lambda f: os.truncate(f / "manifest.json", 30),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_store_is_refused_and_rebuilt_after_deletion(config: DataConfig, fault: str) -> None:
    store = open_token_store(config)
    FAULTS[fault](store.folder)
    with pytest.raises(ValueError, match=r"delete .* and it will be built again"):
        open_token_store(config)
    shutil.rmtree(store.folder)
    assert open_token_store(config).fingerprint == store.fingerprint


def test_failed_build_leaves_no_store(config: DataConfig) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_token_store(config, interrupt)
    assert all(path.name.startswith(".") and path.name.endswith(".building") for path in config.cache.iterdir())
    assert open_token_store(config).documents == 40
    assert len(list(config.cache.iterdir())) == 1


@pytest.mark.slow
def test_two_processes_build_the_same_store(config: DataConfig) -> None:
    code = (
        "import sys; from pathlib import Path; from hushlm.config import DataConfig; from hushlm.data import open_token_store;"
        "print(open_token_store(DataConfig(corpus=sys.argv[1], validation_share=0.1, cache=Path(sys.argv[2]))).fingerprint)"
    )
    command = [sys.executable, "-c", code, config.corpus, str(config.cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate()[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(outputs) == 1
    assert len(list(config.cache.iterdir())) == 1
