"""What users bring as a corpus: everything is read, refused by name, or counted and shown."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hushlm.data.long_text as long_text
import hushlm.data.shards as shards
from hushlm.config import DataConfig
from hushlm.data import SPLITS, TokenStore, open_corpus, open_token_store
from hushlm.data.long_text import Stretch, stretches
from hushlm.data.splits import cut_by_position, ends_by_position

TEXT = "alpha beta gamma delta kettle river stone lamp\n" * 8


def texts(folder: Path, count: int, suffix: str = ".txt") -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"d{number}{suffix}").write_text(f"{number} {TEXT}")


def rows(path: Path, values: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[..., TokenStore]:
    def open_it(corpus: Path, **settings: Any) -> TokenStore:
        return open_token_store(DataConfig(corpus=str(corpus), cache=tmp_path / "cache", **{"validation_share": 0.1, **settings}))

    return open_it


def whole(store: TokenStore) -> str:
    return "".join(store.tokenizer.decode(store.tokens[split][:].tolist()) for split in SPLITS)


def test_files_in_another_encoding_are_counted_and_warned_of(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    folder = tmp_path / "enc"
    texts(folder, 60)
    for number in range(240):
        (folder / f"l{number}.txt").write_bytes("café und größe".encode("latin-1"))
    (folder / "wide.txt").write_text("alpha", encoding="utf-16")
    (folder / "nothing.txt").touch()
    report = store_of(folder).report
    assert report.lost == {"not UTF-8": 240, "in UTF-16, not UTF-8": 1}
    assert report.empty == {"empty": 1}
    assert "240 not UTF-8" in report.line()
    warning = report.warning()
    assert warning is not None
    assert "80.1%" in warning
    assert report.to_dict()["left_out"] == report.lost
    assert store_of(folder).report == report  # the store that is there says the same


def test_a_clean_corpus_has_no_warning(text_folder: Path, store_of: Callable[..., TokenStore]) -> None:
    report = store_of(text_folder).report
    assert (report.warning(), report.lost, report.empty, report.not_read) == (None, {}, {}, {})
    assert len(report.lines()) == 1


def test_what_lies_beside_is_shown(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    folder = tmp_path / "beside"
    texts(folder, 60)
    texts(folder, 12, ".rst")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (tmp_path / "far").mkdir()
    (folder / "linked").symlink_to(tmp_path / "far")
    os.mkfifo(folder / "pipe.txt")
    assert store_of(folder).report.not_read == {".rst": 12, "links to nothing": 1, "linked folders": 1, "no plain files": 1}


def test_texts_and_tables_in_one_folder(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    folder = tmp_path / "mixed"
    texts(folder, 60)
    rows(folder / "meta.jsonl", [{"text": f"id {number} {TEXT}"} for number in range(80)])
    with pytest.raises(ValueError, match=r"60 text files \(d0\.txt\).*\(meta\.jsonl\).*--data\.suffixes"):
        store_of(folder)
    assert store_of(folder, suffixes=(".txt",)).documents == 60
    assert store_of(folder, suffixes=(".jsonl",)).documents == 80
    for path in folder.glob("*.txt"):
        path.unlink()
    (folder / "README.md").write_text("about the rows")
    report = store_of(folder).report  # as a data set's folder on the hub is
    assert (report.documents, report.not_read) == (80, {"text files beside the tables": 1})

    (folder / "d.txt").write_text(TEXT)
    with pytest.raises(ValueError, match="one kind must be meant"):  # a table is never read as if it were text
        store_of(folder, suffixes=(".txt", ".jsonl"))


def test_endings_in_capital_letters_are_tables_too(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    """And never text: nobody wants to train on the braces."""
    rows(tmp_path / "c" / "A.JSONL", [{"text": TEXT}] * 80)
    for corpus in (tmp_path / "c", tmp_path / "c" / "A.JSONL"):
        store = store_of(corpus)
        assert store.documents == 80
        assert "{" not in whole(store)


def test_utf_32_is_named(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    texts(tmp_path / "c", 60)
    (tmp_path / "c" / "w.txt").write_text(TEXT, encoding="utf-32")
    assert store_of(tmp_path / "c").report.lost == {"in UTF-32, not UTF-8": 1}


def test_null_bytes_are_no_text(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    """They are UTF-8, but the byte ends a document, and a large file without content would be read for minutes."""
    texts(tmp_path / "c", 60)
    (tmp_path / "c" / "w.txt").write_text(f"{TEXT}\0{TEXT}")
    assert store_of(tmp_path / "c").report.lost == {"with null bytes, so no text": 1}
    with pytest.raises(ValueError, match="with null bytes, so no text"):
        store_of(tmp_path / "c" / "w.txt")


def test_hidden_files_are_counted_and_not_read(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    """Of texts and of tables alike: what notebooks, version control and other systems put beside them is no corpus."""
    for folder, ending in ((tmp_path / "texts", ".txt"), (tmp_path / "tables", ".jsonl")):
        if ending == ".txt":
            texts(folder, 60)
        else:
            rows(folder / "a.jsonl", [{"text": TEXT}] * 80)
        (folder / f"._a{ending}").write_bytes(b"\0\x05\x16\x07")
        (folder / ".cache").mkdir()
        (folder / ".cache" / f"b{ending}").write_text("not read")
        (folder / "notes.rst").write_text("not asked for")
        report = store_of(folder).report
        assert (report.lost, report.not_read) == ({}, {"hidden files": 1, "hidden folders": 1, ".rst": 1})
        if ending == ".jsonl":
            assert store_of(folder, suffixes=(".jsonl",)).report.not_read == report.not_read


CASES: dict[str, tuple[list[Any], int, dict[str, int], dict[str, int]]] = {
    "two columns by turns": ([{"text": TEXT}] * 40 + [{"content": TEXT}] * 40, 80, {}, {}),
    "a column of nulls": (
        [{"content": None, "text": TEXT}] * 80,
        80,
        {},
        {"read from the column 'text', because 'content' holds no text": 80},
    ),
    "two columns at once": (
        [{"content": TEXT, "text": TEXT + "more"}] * 80,
        80,
        {"in the column 'text', because 'content' is read": 80},
        {},
    ),
    "nulls first": ([{"text": None}] * 5 + [{"text": TEXT}] * 75, 75, {"without text": 5}, {}),
    "two types": ([{"text": TEXT}, {"text": 3}] * 40, 40, {"whose text is of type int": 40}, {}),
    "half characters": ([{"text": TEXT}] * 79 + [{"text": "\ud83d"}], 79, {"with half a character (a lone surrogate)": 1}, {}),
    "no columns": ([{"text": TEXT}] * 79 + [3], 79, {"without columns": 1}, {}),
    "a header": ([{"version": 1}] + [{"text": TEXT}] * 79, 79, {"without such a column": 1}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows(tmp_path: Path, store_of: Callable[..., TokenStore], case: str) -> None:
    values, documents, lost, notes = CASES[case]
    rows(tmp_path / "t" / "a.jsonl", values)
    report = store_of(tmp_path / "t").report
    assert (report.documents, report.lost, report.notes) == (documents, lost, notes)
    assert all(reason in report.line() for reason in lost | notes)


def test_files_of_rows_that_are_no_good(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    good = "".join(json.dumps({"text": TEXT}) + "\n" for _ in range(80))
    for name, content, words in (
        ("cut", good.encode() + b'{"text": "cut off in', "line 81"),
        ("latin", good.encode() + b'{"text": "caf\xe9"}', "not UTF-8 in line 81"),
        ("wide", good.encode("utf-16"), "not UTF-8 in line 1"),
        ("deep", b'{"text":' * 100_000, "too deeply nested"),
        ("numbers", b'{"text": 3}\n' * 5, "no text: 5 whose text is of type int"),
        ("other", b'{"code": "x"}\n' * 5, "has the columns code"),
        ("empty", b"", r"no text \(1 without rows\)"),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            store_of(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(good.encode())[:-9])
    with pytest.raises(ValueError, match=r"bad\.jsonl\.gz can't be read"):
        store_of(tmp_path / "bad.jsonl.gz")


def test_an_empty_shard_is_said(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    rows(tmp_path / "t" / "b.jsonl", [{"text": TEXT}] * 80)
    (tmp_path / "t" / "a.jsonl").touch()
    assert store_of(tmp_path / "t").report.empty == {"without rows": 1}


def test_parquet_of_bytes_and_without_rows(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"text": pa.array([f"{n} {TEXT}".encode() for n in range(80)], pa.binary())}), tmp_path / "t" / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t" / "b.parquet")
    report = store_of(tmp_path / "t").report
    assert (report.documents, report.notes, report.empty) == (80, {"read from bytes": 80}, {"without rows": 1})


@pytest.mark.parametrize("where", ["a file", "a folder of one file", "a folder of a few", "rows"])
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_split_gets_text_where_there_is_enough(
    tmp_path: Path, store_of: Callable[..., TokenStore], where: str, tokenizer: str
) -> None:
    lines = "".join(f"line {number} é of the book\n" for number in range(500))
    folder = tmp_path / "c"
    folder.mkdir()
    path = folder
    if where == "rows":
        rows(folder / "a.jsonl", [{"text": lines[:5000]}, {"text": lines[5000:]}])
    elif where == "a folder of a few":
        for number in range(2):
            (folder / f"{number}.txt").write_text(lines[number * 6000 : (number + 1) * 6000 if number < 1 else None])
    else:
        (folder / "book.txt").write_text(lines)
        path = folder / "book.txt" if where == "a file" else folder
    store = store_of(path, tokenizer=tokenizer)
    assert store.report.by_position
    assert whole(store).replace("\0", "") == lines
    assert store.bytes == sum(store.split_bytes.values()) == len(lines.encode())
    for split in ("validation", "test"):
        assert 0.05 < store.split_bytes[split] / store.bytes < 0.16
        assert store.tokenizer.decode(store.tokens[split][:5].tolist()).startswith("line")  # cut at a line end
    assert store_of(path, tokenizer=tokenizer).report == store.report


def test_positions() -> None:
    assert ends_by_position(9, 0.1) is None
    assert ends_by_position(1000, 0.05) == (900, 950)
    assert cut_by_position("a" * 20, 890, (900, 950)) == [("train", "a" * 10), ("validation", "a" * 10)]
    assert cut_by_position("a" * 100, 890, (900, 950)) == [("train", "a" * 10), ("validation", "a" * 50), ("test", "a" * 40)]
    assert cut_by_position("éé", 899, (900, 950)) == [("validation", "éé")]  # a character stays whole


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_a_long_document_has_the_tokens_of_the_whole(
    tmp_path: Path, store_of: Callable[..., TokenStore], tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts(tmp_path / "c", 60)
    (tmp_path / "c" / "long.txt").write_text("".join(f"line {n}  of\n\n\tthe book, {n} étés 東京\n" for n in range(900)))
    (tmp_path / "c" / "line.txt").write_text("words without a line end " * 400 + "x" * 9000)
    before = store_of(tmp_path / "c", tokenizer=tokenizer)
    monkeypatch.setattr(long_text, "STRETCH_CHARACTERS", 1000)
    monkeypatch.setattr(shards, "PIECE_BYTES", 3000)
    other = DataConfig(corpus=str(tmp_path / "c"), cache=tmp_path / "other", validation_share=0.1, tokenizer=tokenizer)
    after = open_token_store(other)
    assert after.fingerprint == before.fingerprint
    assert after.documents == before.documents == 62
    for split in SPLITS:
        ours, theirs = after.tokens[split][:].tolist(), before.tokens[split][:].tolist()
        assert after.tokenizer.decode(ours) == before.tokenizer.decode(theirs)
        if "x" * 500 not in after.tokenizer.decode(ours):
            assert ours == theirs


def test_where_a_text_is_cut_does_not_depend_on_how_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "STRETCH_CHARACTERS", 100)
    text = "".join(f"{number} some words\n" for number in range(100))
    once = list(stretches([text]))
    assert "".join(once) == text
    assert list(stretches(text[i : i + 7] for i in range(0, len(text), 7))) == once
    assert [isinstance(stretch, Stretch) for stretch in once] == [True] * (len(once) - 1) + [False]
    assert list(stretches([""])) == [""]


def test_a_file_that_changes_meanwhile_leaves_no_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "STRETCH_CHARACTERS", 1000)
    monkeypatch.setattr(shards, "PIECE_BYTES", 2000)
    texts(tmp_path / "c", 30)
    path = tmp_path / "c" / "z.txt"
    path.write_text("line of the book\n" * 1000)
    config = DataConfig(corpus=str(tmp_path / "c"), cache=tmp_path / "cache", validation_share=0.2)
    corpus = open_corpus(config)
    path.write_text("another book now\n" * 1000)
    monkeypatch.setattr("hushlm.data.store.open_corpus", lambda config: corpus)
    with pytest.raises(ValueError, match="changed while it was being read"):
        open_token_store(config)
    path.write_text("line of the book\n" * 1000)
    assert "another" not in whole(open_token_store(config))


def test_a_store_made_before_reasons_were_recorded(tmp_path: Path, store_of: Callable[..., TokenStore]) -> None:
    """Of text files it is used as it is; of rows it is made again, because rows were left out that are read by now."""
    from hushlm.files import write_atomic, write_manifest

    texts(tmp_path / "c", 60)
    (tmp_path / "c" / "l.txt").write_bytes(b"\xe9")
    rows(tmp_path / "r" / "a.jsonl", [{"content": None, "text": TEXT}] * 80)
    for corpus, is_same in ((tmp_path / "c", True), (tmp_path / "r", False)):
        store = store_of(corpus)
        facts = json.loads((store.folder / "store.json").read_text())
        for name in ("lost", "empty", "notes", "by_position"):
            del facts[name]
        facts["skipped"] = 1
        write_atomic(store.folder / "store.json", json.dumps(facts))
        write_manifest(store.folder)
        again = store_of(corpus)
        assert (again.folder == store.folder) == is_same
        assert again.report.lost == ({"not UTF-8": 1} if is_same else {})
