"""A store gives back what was put in, once; it refuses, in a sentence, whatever is not certainly whole, unused and its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tests.private.bundles.conftest import Work
from tests.private.bundles.stores import PEER, PROGRAM, content, file_of, identity_of, made, store, stored

import hushlm.private.bundles.bundle_file as bundle_file
import hushlm.private.bundles.store as store_module
from hushlm.cost.prepared.offline import kept_bytes, material_bytes
from hushlm.plan.needs import (
    SEED_BYTES,
    AttendNeed,
    CentreNeed,
    LookUpNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
)
from hushlm.private.bundles import BundleError, BundleStoreError, peers_of
from hushlm.private.engine import Party
from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.material import IDENTITY_BYTES, Item, Material, MaterialError
from hushlm.private.prepared.offline import draw_item

WORDS = st.sampled_from([np.uint64, np.uint32]).flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
)
ITEMS = st.builds(
    Item,
    st.sampled_from(get_args(Need)).flatmap(st.from_type),
    st.dictionaries(st.sampled_from(["mask", "product", "left.right", "0"]), WORDS, max_size=3),
)
MATERIALS = st.builds(
    Material,
    st.integers(1, 4096),
    st.integers(1, 4096),
    st.binary(min_size=IDENTITY_BYTES, max_size=IDENTITY_BYTES),
    st.lists(ITEMS, max_size=5),
)


@settings(max_examples=40, deadline=None)
@given(MATERIALS)
def test_what_was_stored_comes_back_and_is_gone(material: Material) -> None:
    before, size_bytes = content(material), material.size_bytes
    with tempfile.TemporaryDirectory() as folder:
        kept = store(Path(folder))
        info = kept.add(material, PROGRAM)
        assert info == kept.list()[0] == kept.find(PROGRAM, material.prompt_bucket, material.new_tokens)
        assert info.size_bytes == kept.size_bytes() > size_bytes
        back = store(Path(folder)).burn(info.identity)
        assert content(back) == before
        assert (back.prompt_bucket, back.new_tokens, back.identity) == (material.prompt_bucket, material.new_tokens, material.identity)
        assert kept.list() == []
        # Words that can be overwritten, and that are not the file's own pages.
        back.drop()
        assert not any(words.any() for item in back._items for words in item.words.values())


@pytest.mark.parametrize("party", Party)
def test_masks_are_stored_as_their_seed(tmp_path: Path, party: Party) -> None:
    """Of what a preparation draws only the seed is stored; the masks that come back are the same, and nobody keeps the seed."""
    needs: list[Need] = [
        ProjectNeed("table", 4, 8, 3, 32),
        ProjectNeed("weight", 4, 8, 3),
        LookUpNeed("table", 4, 50, 3, 3, 2),
        ScaleNeed(2, 3, 4),
        AttendNeed("0.cache.keys", "keys", 2, 3, 4, 0, 3, True),
        AttendNeed("0.cache.values", "values", 2, 3, 4, 0, 3, True),
        SquareNeed(7),
        ScaleRowsNeed(3, 4),
        CentreNeed(3, 4),
        MultiplyNeed(6),
    ]
    assert {type(need) for need in needs} == set(get_args(Need))
    source, products = MaskSource(), MaskSource()
    items = [draw_item(need, source, party is Party.CLIENT) for need in needs]
    for item in items:
        for name in {"product", "lengths", "chosen"} & item.words.keys():
            item.words[name][...] = products.words(item.words[name].shape)
    material = Material(32, 1, bytes(range(16)), items, _seed=source.seed)
    whole, kept = content(material), store(tmp_path, party)
    assert material.size_bytes == material_bytes([needs])[party]
    info = kept.add(material, PROGRAM)
    assert material.seed == b""
    with bundle_file.safe_open(kept.folder / f"{info.identity}.bundle", framework="np") as file:
        names = {name.partition(".")[2] for name in file.keys() if "." in name}  # noqa: SIM118 - not a dictionary
        words = sum(file.get_tensor(name).nbytes for name in file.keys() if "." in name or name == "seed")  # noqa: SIM118
    assert names == {"product", "lengths", "chosen"}
    assert words == kept_bytes([needs])[party]
    back = kept.burn(info.identity)
    assert content(back) == whole
    assert back.seed == b""


def test_words_that_a_seed_does_not_give_are_stored(tmp_path: Path) -> None:
    source = MaskSource()
    items = [draw_item(SquareNeed(5), source, True) for _ in range(3)]
    items[1].words["mask"][2] += np.uint64(1)
    material = Material(32, 1, bytes(16), items, _seed=source.seed)
    whole = content(material)
    assert content(store(tmp_path).burn(store(tmp_path).add(material, PROGRAM).identity)) == whole


def test_the_seed_goes_with_the_first_use() -> None:
    source = MaskSource()
    material = Material(32, 1, bytes(16), [draw_item(SquareNeed(5), source, True)], _seed=source.seed)
    assert len(material.seed) == SEED_BYTES
    with material.take(SquareNeed(5)):
        assert material.seed == b""
    assert source.seed == bytes(SEED_BYTES)  # overwritten


def test_further_attributes_of_a_material_come_back(tmp_path: Path) -> None:
    """Whatever is added to `Material` is stored, as long as it is a whole number."""
    attributes = {each.name for each in fields(Material) if not each.name.startswith("_")}
    material = made("a")
    before = {name: getattr(material, name) for name in attributes}
    kept = store(tmp_path)
    back = kept.burn(kept.add(material, PROGRAM).identity)
    assert {name: getattr(back, name) for name in attributes} == before


def test_material_moves_into_the_store(tmp_path: Path) -> None:
    """Nobody has words in memory and on disk at once: they could be used twice."""
    material = made("a")
    store(tmp_path).add(material, PROGRAM)
    with pytest.raises(MaterialError), material.take(SquareNeed(5)):
        pass
    assert not any(words.any() for item in material._items for words in item.words.values())
    used = made("b")
    with used.take(used._items[0].need):
        pass
    with pytest.raises(BundleError, match="has been used, so it cannot be stored"):
        store(tmp_path).add(used, PROGRAM)


def test_nothing_is_made_before_something_is_stored(tmp_path: Path) -> None:
    kept = store(tmp_path / "new")
    assert kept.list() == kept.keep_only([], PROGRAM) == peers_of(tmp_path / "new", Party.SERVER) == []
    assert kept.size_bytes() == 0
    assert kept.find(PROGRAM, 32, 1) is None
    kept.drop(identity_of("a"))
    with pytest.raises(BundleError, match="There is no prepared answer"):
        kept.burn(identity_of("a"))
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = stored(tmp_path / "new" / "stores", "a")
    finally:
        os.umask(before)
    made_here = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made_here if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in made_here if path.is_file()} == {0o600}
    assert file_of(kept, "a") in made_here


@pytest.mark.parametrize("peer", ["alice", "server.example:8443", "[::1]:8443", "..", "../..", "a/b", ".hidden", "%2F", "Zoë *?", "100%"])
def test_every_peer_has_a_folder_of_its_own(tmp_path: Path, peer: str) -> None:
    kept = store(tmp_path, peer=peer)
    kept.add(made("a"), PROGRAM)
    assert kept.folder.parent == tmp_path / "server"
    assert peers_of(tmp_path, Party.SERVER) == [peer]
    assert peers_of(tmp_path, Party.CLIENT) == []
    assert store(tmp_path, peer="bob").list() == store(tmp_path, Party.CLIENT, peer).list() == []
    assert len(store(tmp_path, peer=peer).list()) == 1


def test_the_smallest_that_fits_is_found_and_the_oldest_is_listed_first(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for name, bucket, tokens in (("a", 32, 8), ("b", 32, 4), ("c", 64, 1), ("d", 32, 4)):
        kept.add(made(name, bucket, tokens), PROGRAM)
    kept.add(made("other", 32, 2), "0" * 64)
    assert [info.identity for info in kept.list()] == [identity_of(name) for name in ("a", "b", "c", "d", "other")]
    assert len(kept.list(PROGRAM)) == 4

    def found(bucket: int, tokens: int) -> str | None:
        info = kept.find(PROGRAM, bucket, tokens)
        return None if info is None else info.identity

    # Material is good for its own bucket alone.
    assert (found(32, 2), found(32, 5), found(64, 1)) == (identity_of("b"), identity_of("a"), identity_of("c"))
    assert found(32, 9) is found(96, 1) is found(64, 2) is None


def test_what_was_dropped_counts_as_used(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a", "b", "c")
    dropped = kept.keep_only([identity_of("b"), identity_of("never")], PROGRAM)
    assert sorted(info.identity for info in dropped) == sorted(map(identity_of, "ac"))
    assert kept.keep_only([], "0" * 64) == []
    kept.drop(identity_of("b"))
    kept.drop(identity_of("b"))
    assert kept.list() == []
    for name in "abc":
        with pytest.raises(BundleError, match="was used before"):
            kept.burn(identity_of(name))
        with pytest.raises(BundleError, match="stored before"):
            kept.add(made(name), PROGRAM)


@pytest.mark.parametrize("name", ["", "a", "../used", "A" * 32, "g" * 32, "a" * 33, "a" * 31 + "\n"])
def test_names_that_are_no_identity_are_refused(tmp_path: Path, name: str) -> None:
    kept = stored(tmp_path, "a")
    for method in (kept.burn, kept.drop):
        with pytest.raises(BundleError, match="is not the identity"):
            method(name)
    assert len(kept.list(PROGRAM)) == 1


def test_room_is_bounded_before_anything_is_written(tmp_path: Path) -> None:
    size = stored(tmp_path / "measured", "a").size_bytes()
    kept = store(tmp_path / "bounded", limit_bytes=2 * size + size // 2)
    for name in "ab":
        kept.add(made(name), PROGRAM)
    third = made("c")
    before = content(third)
    with pytest.raises(BundleStoreError, match=r"may take 0\.0 MB.*use or drop some first") as caught:
        kept.add(third, PROGRAM)
    assert "\n" not in str(caught.value)
    assert content(third) == before
    assert sorted(path.suffix for path in kept.folder.iterdir()) == ["", "", ".bundle", ".bundle"]
    kept.burn(identity_of("a"))
    kept.add(third, PROGRAM)


def test_every_changed_byte_is_found_before_anything_is_recorded(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a")
    path, ledger = file_of(kept, "a"), kept.folder / "used"
    whole, expected = path.read_bytes(), content(made("a"))
    with path.open("r+b") as file:  # the same file: a copy is refused for being one
        for place in range(len(whole)):
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << place % 8]), place)
            with pytest.raises(BundleError) as caught:
                bundle_file.read_bundle(path) if place % 16 else kept.burn(identity_of("a"))
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
            os.pwrite(file.fileno(), whole[place : place + 1], place)
        for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
            os.truncate(path, length)
            with pytest.raises(BundleError, match="damaged"):
                kept.burn(identity_of("a"))
            assert [info.problem for info in kept.list()] == [
                f"{path} is damaged or was altered, so it is not used: drop it, and prepare again."
            ]
            assert kept.list(PROGRAM) == []
            os.pwrite(file.fileno(), whole, 0)
    assert ledger.read_bytes() == b""
    assert content(kept.burn(identity_of("a"))) == expected


def test_a_file_of_another_version_is_refused_by_name_and_dropped_like_others(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a")
    path = file_of(kept, "a")
    whole = path.read_bytes()
    assert whole.count(b'"format":3') == 1
    with path.open("r+b") as file:  # the same file: a copy is refused for being one
        os.pwrite(file.fileno(), whole.replace(b'"format":3', b'"format":2'), 0)
    refusal = f"{path} was written by another version of hushlm: drop it, and prepare again."
    assert [info.problem for info in kept.list()] == [refusal]
    with pytest.raises(BundleError) as caught:
        kept.burn(identity_of("a"))
    assert str(caught.value) == refusal
    kept.drop(identity_of("a"))
    assert kept.list() == []


def test_unknown_kinds_and_fields_of_needs_are_refused() -> None:
    for change in ({"kind": "Other"}, {"more": 1}, {"elements": "5"}, {"elements": None}):
        with pytest.raises(ValueError, match="validation error"):
            bundle_file._NEED_LIST.validate_json(json.dumps([{"kind": "SquareNeed", "elements": 5} | change]))


def _wrong_mode(path: Path) -> None:
    path.chmod(0o640)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _copy(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(_wrong_mode, r"open to other users \(mode 0640\)"), (_link, "not a plain file"), (_folder, "not a plain file"), (_copy, "is a copy")],
)
def test_a_file_that_is_not_the_one_that_was_written_is_refused_and_shown(
    tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    kept = stored(tmp_path, "a", "b")
    change(file_of(kept, "a"))
    with pytest.raises(BundleError, match=sentence) as caught:
        kept.burn(identity_of("a"))
    assert not isinstance(caught.value, BundleStoreError)
    (problem,) = [info.problem for info in kept.list() if info.identity == identity_of("a")]
    assert problem == str(caught.value)
    assert [info.identity for info in kept.list(PROGRAM)] == [identity_of("b")]
    kept.burn(identity_of("b"))


def test_the_other_partys_half_and_another_peers_are_refused(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a")
    for wrong in (store(tmp_path, Party.CLIENT), store(tmp_path, peer="bob")):
        wrong.add(made("own"), PROGRAM)
        file_of(kept, "a").rename(file_of(wrong, "a"))
        with pytest.raises(BundleError, match=f"is the server's half of {identity_of('a')} with {PEER}"):
            wrong.burn(identity_of("a"))
        assert len(wrong.list(PROGRAM)) == 1
        file_of(wrong, "a").rename(file_of(kept, "a"))
    file_of(kept, "a").rename(file_of(kept, "renamed"))
    with pytest.raises(BundleError, match="half of"):
        kept.burn(identity_of("renamed"))
    file_of(kept, "renamed").rename(file_of(kept, "a"))
    kept.burn(identity_of("a"))


def test_somebody_elses_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stored(tmp_path, "a")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    for attempt in (
        lambda: kept.burn(identity_of("a")),
        kept.list,
        lambda: kept.add(made("b"), PROGRAM),
        lambda: kept.drop(identity_of("a")),
    ):
        with pytest.raises(BundleStoreError, match="belongs to another user"):
            attempt()
    monkeypatch.setattr(store_module, "check_folder", lambda folder: None)
    with pytest.raises(BundleError, match=r"\.bundle belongs to another user"):
        kept.burn(identity_of("a"))


@pytest.mark.parametrize("level", ["peer", "party"])
def test_a_folder_that_is_open_or_a_link_is_refused(tmp_path: Path, level: str) -> None:
    kept = stored(tmp_path, "a")
    folder = kept.folder if level == "peer" else kept.folder.parent

    def refused(sentence: str) -> None:
        for attempt in (
            lambda: kept.burn(identity_of("a")),
            kept.list,
            lambda: kept.add(made("b"), PROGRAM),
            lambda: kept.drop(identity_of("a")),
        ):
            with pytest.raises(BundleStoreError, match=sentence) as caught:
                attempt()
            assert "\n" not in str(caught.value)

    folder.chmod(0o750)
    refused(r"open to other users \(mode 0750\).*chmod 700")
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    refused("is a link")
    folder.unlink()
    folder.write_text("")
    refused("is not a folder|Not a directory")
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    kept.burn(identity_of("a"))


def test_the_folder_of_all_stores_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    stored(tmp_path / "link", "a")
    assert len(store(tmp_path / "disk").list(PROGRAM)) == 1


def test_a_restored_file_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stored(tmp_path / "stores", "a", "b")
    # Even if it were not seen to be a copy.
    inodes = {path.name: path.stat().st_ino for path in kept.folder.iterdir()}
    monkeypatch.setattr(bundle_file, "check_file", lambda path: _pretend(path, inodes))
    backup = shutil.copytree(kept.folder, tmp_path / "backup")
    kept.burn(identity_of("a"))
    kept.drop(identity_of("b"))
    for name in "ab":
        shutil.copy2(backup / file_of(kept, name).name, kept.folder)
    assert [info.problem.split(" ")[-1] for info in kept.list()] == ["again.", "again."]
    assert kept.list(PROGRAM) == []
    for name in "ab":
        with pytest.raises(BundleError, match="was used before"):
            store(tmp_path / "stores").burn(identity_of(name))
    # The next call that may write has removed them.
    assert kept.list() == []


def _pretend(path: Path, inodes: dict[str, int]) -> Any:
    found = list(path.stat())
    found[1] = inodes[path.name]
    return os.stat_result(found)


def test_a_copied_folder_is_not_used(tmp_path: Path) -> None:
    kept = stored(tmp_path / "stores", "a")
    shutil.copytree(tmp_path / "stores", tmp_path / "copied")
    copied = store(tmp_path / "copied")
    with pytest.raises(BundleError, match="is a copy, and its original may have been used"):
        copied.burn(identity_of("a"))
    assert copied.list(PROGRAM) == []
    assert len(copied.list()) == 1
    kept.burn(identity_of("a"))
    # It can be emptied, and used for new material.
    copied.drop(identity_of("a"))
    copied.add(made("b"), PROGRAM)
    copied.burn(identity_of("b"))


def test_of_a_snapshot_that_was_restored_at_one_side_the_other_sides_ledger_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of the disk has the same inodes and an old ledger: this side cannot tell. Both restored at once is the danger."""
    sides = [store(tmp_path / "stores", party) for party in Party]
    for side in sides:
        side.add(made("a"), PROGRAM)
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "stores").rglob("*")}
    shutil.copytree(tmp_path / "stores", tmp_path / "snapshot")
    for side in sides:
        side.burn(identity_of("a"))
    monkeypatch.setattr(bundle_file, "check_file", lambda path: _pretend(path, {**inodes, path.name: stored_inode(path)}))
    client, server = sides
    shutil.rmtree(client.folder)
    shutil.copytree(tmp_path / "snapshot" / "client" / PEER, client.folder)
    assert len(client.list(PROGRAM)) == 1
    client.burn(identity_of("a"))
    with pytest.raises(BundleError, match="was used before"):
        server.burn(identity_of("a"))
    shutil.rmtree(server.folder)
    shutil.copytree(tmp_path / "snapshot" / "server" / PEER, server.folder)
    assert content(server.burn(identity_of("a"))) == content(made("a"))


def stored_inode(path: Path) -> int:
    with bundle_file.safe_open(path, framework="np") as file:
        return bundle_file.StoredInfo.model_validate_json(file.get_tensor("info").tobytes()).inode


@pytest.mark.parametrize("torn", [b"", b"a", b"0123456789abcdef", b"a" * 32, bytes(20), bytes(33), b"f" * 20 + bytes(13)])
@pytest.mark.parametrize("before", [0, 3])
def test_a_torn_last_record_costs_nothing(tmp_path: Path, torn: bytes, before: int) -> None:
    names = [f"used {number}" for number in range(before)]
    kept = stored(tmp_path, *names, "a", "b")
    for name in names:
        kept.burn(identity_of(name))
    with (kept.folder / "used").open("ab") as ledger:
        ledger.write(torn)
    assert len(kept.list(PROGRAM)) == 2
    kept.burn(identity_of("a"))
    assert (kept.folder / "used").read_text().split() == [identity_of(name) for name in [*names, "a"]]
    for name in [*names, "a"]:
        with pytest.raises(BundleError, match="was used before"):
            kept.burn(identity_of(name))
    kept.burn(identity_of("b"))


def test_without_a_whole_ledger_nothing_is_used(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a", "b", "c")
    for name in "ab":
        kept.burn(identity_of(name))
    ledger = kept.folder / "used"
    whole = ledger.read_bytes()
    for content_now in (None, whole[1:], b"\0" + whole[1:], whole.replace(b"\n", b" ", 1), whole + b"x" * 40):
        ledger.unlink() if content_now is None else ledger.write_bytes(content_now)
        sentence = "the list of what was used, is (missing|damaged)"
        for attempt in (lambda: kept.burn(identity_of("c")), lambda: kept.add(made("d"), PROGRAM), lambda: kept.drop(identity_of("c"))):
            with pytest.raises(BundleStoreError, match=sentence):
                attempt()
        (info,) = kept.list()
        assert "remove that folder and prepare again" in info.problem
        assert kept.list(PROGRAM) == []
        ledger.touch(mode=0o600)
    ledger.write_bytes(whole)
    kept.burn(identity_of("c"))


def test_one_of_several_processes_wins(tmp_path: Path, work: Work) -> None:
    for number in range(20):
        stored(tmp_path, f"a{number}")
        said = work(tmp_path, ["burn", f"a{number}"], children=4)
        won = [each for each in said if "returned" in each]
        assert [each["returned"] for each in won] == [repr(content(made(f"a{number}")))], said
        assert all("was used before" in each["sentence"] for each in said if each not in won)
        # One burns while another drops.
        stored(tmp_path, f"b{number}")
        assert {each["code"] for each in work(tmp_path, ["keep_only", []], children=3)} == {0}
    ledger = (tmp_path / "server" / PEER / "used").read_text().split()
    assert len(ledger) == len(set(ledger)) == 40


def test_processes_that_store_at_once_leave_one_bundle_each(tmp_path: Path, work: Work) -> None:
    said = work(tmp_path, ["add", "a"], children=4)
    assert sum("returned" in each for each in said) == 1
    assert len(store(tmp_path).list(PROGRAM)) == 1


def test_a_store_that_another_process_holds_is_refused_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stored(tmp_path, "a")
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.2)
    code = "import sys, filelock\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\nprint(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, str(kept.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(BundleStoreError, match=r"Another process has held .* for 0\.2 s"):
            kept.burn(identity_of("a"))
        assert len(kept.list(PROGRAM)) == 1  # reading waits for nobody
        process.kill()
    kept.burn(identity_of("a"))  # a killed process holds nothing


def test_everything_is_on_disk_in_the_order_that_makes_it_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut may lose cannot be tried here; the order in which files are forced to disk can."""
    kept, names, trace = store(tmp_path), dict[int, str](), list[str]()
    kept.add(made("first"), PROGRAM)

    def traced(name: str) -> None:
        operation = getattr(os, name)

        def call(first: Any, *arguments: Any, **options: Any) -> Any:
            result = operation(first, *arguments, **options)
            path = names.get(first, "?") if isinstance(first, int) else Path(first).name
            if name == "open":
                names[result] = path
            else:
                trace.append(f"{name} {'folder' if path == PEER else path.replace(identity_of('a'), 'a')}")
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "replace", "unlink"):
        traced(name)
    kept.add(made("a"), PROGRAM)
    stored_trace = [each for each, _ in itertools.groupby(trace)]
    trace.clear()
    kept.burn(identity_of("a"))
    assert stored_trace == ["write .a.tmp", "fsync .a.tmp", "replace .a.tmp", "fsync folder"]
    assert trace == ["write used", "fsync used", "write a.bundle", "fsync a.bundle", "unlink a.bundle", "fsync folder"]


def test_words_are_overwritten_on_disk(tmp_path: Path) -> None:
    kept = stored(tmp_path, "a", "b")
    for name in "ab":
        os.link(file_of(kept, name), tmp_path / name)
    kept.burn(identity_of("a"))
    kept.drop(identity_of("b"))
    for name in "ab":
        assert not any((tmp_path / name).read_bytes())
        assert (tmp_path / name).stat().st_size > 1000
