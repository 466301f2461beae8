"""What a server keeps of prepared answers: limits, one session each, and its clients apart. And what a client takes of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.private.bundles.stores import identity_of, made
from tests.private.models import SMALL

pytest.importorskip("spu")

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.private.bundles import BundleStore
from hushlm.private.client.prepared_shelf import ClientShelf
from hushlm.private.engine import Party
from hushlm.private.program.description import PROTOCOL_VERSION, RevealPolicy, describe
from hushlm.private.server.admission import RefusedError
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.server.prepared_shelf import PreparedShelf, PrepareSettings
from hushlm.private.session.messages import MOST_BUNDLES, BundleProblem, SessionRequest, shape_of
from hushlm.private.session.prepared_work import batch_answers, bundle_bytes

DESCRIPTION = describe(parse("SM2+R"), SMALL)


def wanted(**changes: Any) -> SessionRequest:
    fields = {
        "protocol_version": PROTOCOL_VERSION,
        "engine_version": "x",
        "architecture": "SM2+R",
        "shape": shape_of(SMALL),
        "fingerprint": DESCRIPTION.fingerprint,
        "prompt_length": 20,
        "new_tokens": 2,
        "reveal": RevealPolicy(),
        "engine_certificate": "x",
        "kind": "ask",
        "answers": 0,
        "bundle": None,
        "held": None,
        "draft": 0,
        "network": None,
        "near": True,
    }
    return SessionRequest.model_validate(fields | changes)


def shelf_of(folder: Path | None, **limits: int) -> tuple[PreparedShelf, ServerMetrics]:
    metrics = ServerMetrics(1, lambda: 0, lambda: 0)
    return PreparedShelf(PrepareSettings(folder, **limits), DESCRIPTION, metrics), metrics


def kept(folder: Path, client: str, *names: str) -> list[str]:
    store = BundleStore(folder, Party.SERVER, client)
    return [store.add(made(name), DESCRIPTION.fingerprint).identity for name in names]


def refusal(shelf: PreparedShelf, request: SessionRequest, client: str = "alice") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        shelf.admit(client, request)
    assert str(caught.value).endswith(".")
    return caught.value


def test_a_server_without_a_folder_says_so_and_answers_what_needs_none() -> None:
    shelf, _ = shelf_of(None)
    shelf.admit("alice", wanted())
    for request in (wanted(kind="prepare", answers=1), wanted(bundle="0" * 32)):
        assert refusal(shelf, request).status == BundleProblem.NONE_KEPT


def test_limits_of_a_client_and_of_all(tmp_path: Path) -> None:
    shelf, _ = shelf_of(tmp_path, client_answers=3, answers=4)
    kept(tmp_path, "alice", "one", "two")
    shelf.admit("alice", wanted(kind="prepare", answers=1))
    assert "2 are there: ask for at most 1 more." in str(refusal(shelf, wanted(kind="prepare", answers=2)))
    shelf.admit("bob", wanted(kind="prepare", answers=2))
    assert "4 prepared answers in all, and 2 are there" in str(refusal(shelf, wanted(kind="prepare", answers=3), "bob"))
    size = bundle_bytes(DESCRIPTION, 20, 2, client=False)
    here = sum(info.size_bytes for info in BundleStore(tmp_path, Party.SERVER, "alice").list())
    shelf, _ = shelf_of(tmp_path, client_bytes=here + size)
    shelf.admit("alice", wanted(kind="prepare", answers=1))
    full = refusal(shelf, wanted(kind="prepare", answers=2))
    assert "ask for at most 1 more" in str(full)
    assert (full.reason, full.status) == ("prepared", 400)


def test_a_prepared_answer_is_one_client_s_and_one_session_s(tmp_path: Path) -> None:
    shelf, metrics = shelf_of(tmp_path)
    first, second, third = kept(tmp_path, "alice", "one", "two", "three")
    request = wanted(bundle=first, held=(first, second, third))
    shelf.admit("alice", request)
    shelf.begin("alice", request)
    shelf.admit("alice", request)
    with pytest.raises(RefusedError) as busy:
        shelf.begin("alice", request)
    assert busy.value.status == BundleProblem.BUSY
    assert refusal(shelf, wanted(bundle=first, held=(first,)), "bob").status == BundleProblem.GONE
    # What the client lost is dropped; not what a session is using.
    assert refusal(shelf, wanted(bundle="0" * 32, held=(second,))).status == BundleProblem.GONE
    assert {info.identity for info in shelf.held("alice")} == {first, second}
    assert shelf.both_hold("alice", (first, third)) == (first,)
    assert metrics.registry.get_sample_value("hushlm_prepared_answers_total", {"event": "dropped"}) == 1
    assert metrics.registry.get_sample_value("hushlm_prepared_held") == 2
    shelf.end("alice", request)
    assert refusal(shelf, wanted(bundle="0" * 32, held=(second,))).status == BundleProblem.GONE
    assert {info.identity for info in shelf.held("alice")} == {second}


def test_a_prepared_answer_of_other_lengths_is_refused_before_anything_begins(tmp_path: Path) -> None:
    shelf, _ = shelf_of(tmp_path)
    store = BundleStore(tmp_path, Party.SERVER, "alice")
    short = store.add(made("short", new_tokens=2), DESCRIPTION.fingerprint).identity
    other = store.add(made("other", prompt_bucket=64), DESCRIPTION.fingerprint).identity
    for name, new_tokens, words in ((short, 3, "not for 32 and 3"), (other, 1, "prompts of 64 tokens")):
        wrong = refusal(shelf, wanted(bundle=name, held=(short, other), new_tokens=new_tokens))
        assert words in str(wrong)
        assert wrong.status == 400
    shelf.admit("alice", wanted(bundle=short, held=(short, other), new_tokens=1))
    assert {info.identity for info in shelf.held("alice")} == {short, other}


def test_nothing_is_dropped_while_some_are_made_or_where_nothing_is_said(tmp_path: Path) -> None:
    shelf, _ = shelf_of(tmp_path)
    kept(tmp_path, "alice", "one")
    shelf.admit("alice", wanted(kind="prepare", answers=1))
    making = wanted(kind="prepare", answers=1, held=())
    shelf.begin("alice", making)
    refusal(shelf, wanted(bundle="0" * 32, held=()))
    assert len(shelf.held("alice")) == 1
    shelf.end("alice", making)
    shelf.admit("alice", making)
    assert shelf.held("alice") == []


def test_a_folder_that_cannot_be_used_costs_the_client_nothing(tmp_path: Path) -> None:
    shelf, metrics = shelf_of(tmp_path)
    (first,) = kept(tmp_path, "alice", "one")
    (tmp_path / "server").chmod(0o755)
    assert refusal(shelf, wanted(bundle=first, held=(first,))).status == 500
    with pytest.raises(RefusedError):
        shelf.both_hold("alice", (first,))
    assert metrics.registry.get_sample_value("hushlm_prepared_held") != 0


def test_a_client_takes_the_closest_and_each_once(tmp_path: Path) -> None:
    store = BundleStore(tmp_path, Party.CLIENT, "host:1")
    for name, new_tokens in (("long", 9), ("short", 3), ("other", 3)):
        store.add(made(name, new_tokens=new_tokens), DESCRIPTION.fingerprint)
    store.add(made("another program"), "e" * 64)
    shelf = ClientShelf(tmp_path, "host:1", DESCRIPTION)
    assert shelf.take(20, 10) is None
    taken = [shelf.take(20, 3) for _ in range(4)]
    assert [info and info.identity for info in taken] == [identity_of(name) for name in ("short", "other", "long")] + [None]
    assert taken[0] is not None
    shelf.give_back(taken[0])
    assert shelf.take(20, 1) == taken[0]
    shelf.reconcile(shelf.names(), (identity_of("short"),))
    assert len(shelf.held()) == 3, "none of them while sessions of this process have them"
    for info in taken:
        if info is not None:
            shelf.give_back(info)
    shelf.reconcile(None, ())
    shelf.reconcile(shelf.names(), None)
    shelf.reconcile((identity_of("short"), identity_of("long")), (identity_of("short"),))
    assert {info.identity for info in shelf.held()} == {identity_of("short"), identity_of("other")}


def test_guesses_are_for_greedy_questions_that_leave_room_for_them(tmp_path: Path) -> None:
    for party, peer in ((Party.CLIENT, "host:1"), (Party.SERVER, "alice")):
        for name, draft in (("plain", 0), ("guessing", 3)):
            BundleStore(tmp_path, party, peer).add(made(name, draft=draft), DESCRIPTION.fingerprint)
    mine = ClientShelf(tmp_path, "host:1", DESCRIPTION)
    plain, guessing = identity_of("plain"), identity_of("guessing")
    assert [(info.identity, info.draft) for info in mine.fitting(20, 2)] == [(guessing, 3), (plain, 0)]
    assert [info.identity for info in mine.fitting(20, 2, greedy=False)] == [plain]
    assert SMALL.context == 32
    assert [info.identity for info in mine.fitting(28, 2)] == [plain]
    theirs, _ = shelf_of(tmp_path)
    theirs.admit("alice", wanted(bundle=guessing, held=(plain, guessing)))
    for changes in ({"prompt_length": 28}, {"reveal": RevealPolicy(kind="topk", top=3)}):
        wrong = refusal(theirs, wanted(bundle=guessing, held=(plain, guessing), **changes))
        assert "guesses 3 tokens a pass" in str(wrong)
        theirs.admit("alice", wanted(bundle=plain, held=(plain, guessing), **changes))
    more = bundle_bytes(DESCRIPTION, 20, 2, client=False, draft=3)
    assert more > bundle_bytes(DESCRIPTION, 20, 2, client=False)
    theirs, _ = shelf_of(tmp_path, client_bytes=theirs.held("alice")[0].size_bytes * 2 + more - 1)
    theirs.admit("alice", wanted(kind="prepare", answers=1))
    assert "one takes" in str(refusal(theirs, wanted(kind="prepare", answers=1, draft=3)))


def test_settings_and_batches_are_bounded() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PrepareSettings(client_answers=0)
    with pytest.raises(ValueError, match=str(MOST_BUNDLES)):
        PrepareSettings(client_answers=MOST_BUNDLES + 1)
    assert batch_answers(DESCRIPTION, 20, 2) == 8
    large = describe(parse("SM2+R"), SMALL.__class__(layers=12, heads=12, width=768, context=256, vocabulary=50257))
    assert 1 <= batch_answers(large, 128, 1) <= 3


def test_the_command_lists_and_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept(tmp_path, "alice", "one", "two")
    kept(tmp_path, "bob", "three")

    def command(*words: str) -> tuple[int, str, str]:
        code = main(["prepared", *words, "--server-folder", str(tmp_path)])
        return code, *capsys.readouterr()

    code, shown, _ = command("list")
    assert code == 0
    assert identity_of("one")[:12] in shown
    assert "bob" in shown
    document = json.loads(command("list", "--peer", "alice", "--json")[1])
    assert (document["count"], {row["peer"] for row in document["prepared"]}) == (2, {"alice"})
    assert document["bytes"] == sum(row["bytes"] for row in document["prepared"]) > 0
    assert all(row["problem"] == "" and row["age_seconds"] >= 0 for row in document["prepared"])
    assert command("drop")[0] == 2
    assert command("drop", "--identity", "abc")[0] == 2
    assert "There is no prepared answer" in command("drop", "--identity", "0" * 12)[2]
    assert "Dropped 1 prepared answer," in command("drop", "--identity", identity_of("one")[:12])[1]
    assert "Dropped 1 prepared answer," in command("drop", "--peer", "bob")[1]
    assert "Dropped 1 prepared answer," in command("drop", "--everything")[1]
    assert json.loads(command("list", "--json")[1])["count"] == 0
    code, _, error = command("list", "--keys", str(tmp_path))
    assert code == 2
    assert "either" in error
