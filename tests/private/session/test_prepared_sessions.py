"""Prepared answers between a real client and a real server: the same tokens, few bytes, each used once whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("spu")

from tests.private.by_hand import hand_made
from tests.private.service import PROMPTS, Serving, ask_command, assert_one_sentence, run, serving, wait_for

from hushlm.cost import LAN, WAN
from hushlm.cost.prepared.online_bytes import online_bytes
from hushlm.plan import Reveal, bucket_length, decode_plan, prefill_plan
from hushlm.private.bundles import BundleStore
from hushlm.private.client.client import Client, ClientSettings
from hushlm.private.client.preparing import PreparationReport
from hushlm.private.engine import Party
from hushlm.private.keys.certificates import add_client, create_keys
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.session.messages import SessionError
from hushlm.training import Checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(900)]

HOOKS = Path(__file__).parents[1] / "hooks"
LOGITS = RevealPolicy(kind="logits")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a client of the name alice beside the usual one."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    create_keys(folder, ["127.0.0.1"])
    add_client(folder, "alice", 30)
    return folder


class Shelves:
    """Both sides' stores, and a server that may be started again at the same address."""

    def __init__(self, export: Path, keys: Path, folder: Path, scratch: Path) -> None:
        self.export, self.keys, self.folder, self._scratch = export, keys, folder, scratch
        self.fingerprint = load_description(export / "client").fingerprint
        self.client_folder, self.server_folder = folder / "client-shelf", folder / "server-shelf"
        self.address = ""
        self._started = 0

    @contextlib.contextmanager
    def serving(self, *options: str) -> Iterator[Serving]:
        self._started += 1
        listen = ("--listen", self.address) if self.address else ()
        log = self.folder / f"server-{self._started}.log"
        with serving(self.export, self.keys, log, "--prepare-folder", str(self.server_folder), *options, *listen) as server:
            self.address = server.address
            yield server
        assert "Traceback" not in log.read_text()

    def client(self, name: str = "client", **settings: object) -> Client:
        made = replace(ClientSettings(prepared_folder=self.client_folder / name), **settings)  # type: ignore[arg-type]
        return Client(self.export / "client", self.address, self.keys, name, made)

    def ask(self, *options: str) -> list[str]:
        folder = ("--prepared-folder", str(self.client_folder / "client"))
        return ask_command(PROMPTS[0], self.export, self.keys, self.address, *folder, *options)

    def at_client(self, name: str = "client") -> set[str]:
        return {info.identity for info in BundleStore(self.client_folder / name, Party.CLIENT, self.address).list(self.fingerprint)}

    def at_server(self, name: str = "client") -> set[str]:
        return {info.identity for info in BundleStore(self.server_folder, Party.SERVER, name).list(self.fingerprint)}


class Snapshot:
    """What a file system's snapshot keeps of a folder: contents and inodes, so that nothing of a file tells that it was brought back."""

    def __init__(self, folder: Path) -> None:
        self._content: dict[Path, tuple[Path, bytes]] = {}
        for path in [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]:
            kept = folder.parent / f"snapshot-{len(self._content)}"
            os.link(path, kept)
            self._content[path] = kept, path.read_bytes()

    def restore(self) -> None:
        for path, (kept, content) in self._content.items():
            kept.write_bytes(content)
            path.unlink(missing_ok=True)
            os.link(kept, path)


@pytest.fixture
def shelves(export_folder: Path, keys: Path, tmp_path: Path, scratch: Path) -> Shelves:
    return Shelves(export_folder, keys, tmp_path, scratch)


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers load the hooks. Returns: the file that takes what they burn."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HOOKS), os.environ.get("PYTHONPATH", "")))))
    burns = tmp_path / "burns"
    burns.touch()
    monkeypatch.setenv("HUSH_TEST_BURNS", str(burns))
    return burns


def formula_bytes(shelves: Shelves, prompt_length: int, new_tokens: int) -> float:
    """What the online forms move, by their formula; the model has no LayerNorm, and logits are opened by one word each."""
    description = load_description(shelves.export / "client")
    architecture, shape, rewrites = description.parsed_architecture, description.shape, description.rewrites
    reveal, whole = Reveal(shape.vocabulary, "logits"), 0.0
    opened: dict[str, int] = {}
    for index in range(new_tokens):
        keys = bucket_length(prompt_length + index, shape.context)
        plan = (decode_plan if index else prefill_plan)(architecture, shape, keys, reveal, rewrites)
        steps = online_bytes(plan, opened)
        assert not any(step.inverse_roots for step in steps.values())
        whole += sum(step.total for step in steps.values()) + 8 * shape.vocabulary
    return whole


def test_a_prepared_answer_is_today_s_with_the_formula_s_bytes(
    shelves: Shelves, served_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As from another machine: the formula is of transfers from stocks.
    monkeypatch.setattr("hushlm.private.client.control_channel.is_this_machine", lambda host: False)
    with shelves.serving("--prepare-client-answers", "3") as server:
        client = shelves.client()
        report = client.prepare(3, tokens_each=3)
        assert (report.made, report.held, report.sessions) == (3, 3, 1)
        assert shelves.at_client() == shelves.at_server()
        assert len(shelves.at_client()) == 3
        assert client.prepare(3, tokens_each=3).made == 0, "those that are there count"
        with pytest.raises(SessionError, match="keeps 3 prepared answers for a client, and 3 are there"):
            client.prepare(4, tokens_each=3)

        told: list[str] = []
        prompt = client.tokenizer.encode(PROMPTS[0]).ids
        plaintext = served_checkpoint.model.greedy(prompt, 3)
        prepared = client.ask(PROMPTS[0], 3, LOGITS, on_progress=lambda progress: told.append(progress.note))
        assert list(prepared.tokens) == plaintext
        assert prepared.prepared
        assert prepared.to_dict()["prepared"] is True
        assert not any(told)
        counted = prepared.query.total_bytes - formula_bytes(shelves, len(prompt), 3)
        assert 0 <= counted <= 8 * (prepared.query.sent_messages + prepared.query.received_messages)

        today = shelves.client(prepared="never").ask(PROMPTS[0], 3, LOGITS)
        assert today.tokens == prepared.tokens
        assert not today.prepared
        assert today.query.total_bytes > 10 * prepared.query.total_bytes
        assert len(shelves.at_client()) == 2, "never leaves them alone"

        # Fewer tokens than were prepared, from the command, which opens tokens alone.
        result = run(shelves.ask("--new-tokens", "1", "--prepared", "only"), 200)
        assert result.returncode == 0, result.stderr
        assert f"tokens:                   {plaintext[:1]}" in result.stdout
        assert "A prepared answer was used up" in " ".join(result.stdout.split())
        assert shelves.at_client() == shelves.at_server()
        assert len(shelves.at_client()) == 1

        # No fit: longer than what is prepared.
        assert_one_sentence(run(shelves.ask("--new-tokens", "4", "--prepared", "only"), 60), "hushlm prepare", "--tokens-each 4")
        lines = run(shelves.ask("--new-tokens", "4"), 200)
        assert lines.returncode == 0, lines.stderr
        assert "No answer is prepared for a prompt of" in lines.stderr
        assert len(shelves.at_client()) == 1
        assert "secret" not in server.log.read_text()


def test_guesses_and_a_named_network_change_messages_and_no_answer(shelves: Shelves, served_checkpoint: Checkpoint) -> None:
    with shelves.serving():
        client = shelves.client(prepared="only", network=WAN)
        assert client.prepare(1, tokens_each=4, draft=2).made == 1
        assert client.prepare(1, tokens_each=4, draft=2).made == 0
        with pytest.raises(SessionError, match="No answer is prepared"):
            client.ask(PROMPTS[0], 2, RevealPolicy(kind="topk", top=2))
        prompt = client.tokenizer.encode(PROMPTS[0]).ids
        answer = client.ask(PROMPTS[0], 4, LOGITS)
        assert list(answer.tokens) == served_checkpoint.model.greedy(prompt, 4)
        expected = client.estimate(len(prompt), 4, LOGITS, prepared=True, draft=2)
        in_pairs = shelves.client().estimate(len(prompt), 4, LOGITS, prepared=True, draft=2)
        messages = answer.query.sent_messages + answer.query.received_messages
        assert messages <= 1.05 * expected.messages < in_pairs.messages, "at most as many passes as tokens, in fewer messages"
        assert shelves.at_client() == shelves.at_server() == set()


def test_a_session_nearby_asks_for_its_transfers_and_moves_what_was_predicted(shelves: Shelves, served_checkpoint: Checkpoint) -> None:
    """Without stocks of oblivious transfers, from prepared material and without it: set-up and answer, bytes and messages."""
    with shelves.serving("--engine-threads", "2"):  # as many as the export asks for, which the client reckons with
        client = shelves.client(network=LAN)
        prompt = client.tokenizer.encode(PROMPTS[0]).ids
        for prepared in (False, True):
            if prepared:
                assert client.prepare(1, tokens_each=1).made == 1
            expected = client.estimate(len(prompt), 1, LOGITS, prepared=prepared)
            assert expected.passes[0].transfers == "softspoken"
            answer = client.ask(PROMPTS[0], 1, LOGITS)
            assert answer.prepared is prepared
            assert list(answer.tokens) == served_checkpoint.model.greedy(prompt, 1)
            assert answer.set_up.total_bytes == pytest.approx(expected.set_up_bytes, rel=0.005)
            assert answer.query.total_bytes == pytest.approx(expected.bytes, rel=0.005)
            assert answer.query.sent_messages + answer.query.received_messages == expected.messages


def test_a_model_that_guesses_right_takes_fewer_passes(shelves: Shelves, served_checkpoint: Checkpoint) -> None:
    """The best guesser there is: the model that is asked. What was not made for guesses says that nothing is guessed."""
    with shelves.serving():
        client = shelves.client(prepared="only", draft_model=served_checkpoint.config.output)
        assert client.prepare(1, tokens_each=5, draft=3).made == 1
        prompt = client.tokenizer.encode(PROMPTS[0]).ids
        answers = list(client.stream(prompt, 5))
        assert [answer.token for answer in answers] == served_checkpoint.model.greedy(prompt, 5)
        assert [bool(answer.steps) for answer in answers] == [True, True, False, False, False], "four tokens of one pass"
        assert client.prepare(1, tokens_each=2).made == 1
        told: list[str] = []
        client.ask(PROMPTS[0], 2, on_progress=lambda progress: told.append(progress.note or ""))
        assert any("Nothing is guessed in this answer" in text for text in told)


def test_a_server_knows_its_clients_apart_and_both_drop_what_one_lost(shelves: Shelves) -> None:
    with shelves.serving() as server:
        shelves.client().prepare(3, tokens_each=1)
        first, second, third = sorted(shelves.at_client())
        # A copy of the store at another client, and a snapshot of this one.
        shutil.copytree(shelves.client_folder / "client", shelves.client_folder / "alice")
        snapshot = Snapshot(shelves.client_folder / "client")
        fitting = [info.identity for info in shelves.client().shelf.fitting(len(PROMPTS[0]), 1)]
        with pytest.raises(SessionError, match="No answer is prepared"):
            shelves.client("alice", prepared="only").ask(PROMPTS[0], 1)
        assert shelves.at_client("alice") == set()
        assert shelves.at_server() == shelves.at_client() == {first, second, third}
        assert shelves.at_server("alice") == set()
        with hand_made(server.address, shelves.export, shelves.keys, shelves.folder, "alice") as by_hand:
            refusal = by_hand.refused(bundle=first, held=[first])
            assert refusal.status_code == 410
            assert "no longer has this prepared answer" in refusal.json()["error"]

        assert shelves.client(prepared="only").ask(PROMPTS[0], 1).prepared
        used = fitting[0]
        snapshot.restore()
        assert used in shelves.at_client()
        told: list[str] = []
        answer = shelves.client(prepared="only").ask(PROMPTS[0], 1, on_progress=lambda progress: told.append(progress.note))
        assert answer.prepared
        assert any("no longer has this prepared answer" in note for note in told)
        assert shelves.at_client() == shelves.at_server() == {fitting[2]}

        # What the client lost, the server drops when it hears of it; what is in use by another session stays.
        with hand_made(server.address, shelves.export, shelves.keys, shelves.folder) as by_hand:
            own = {"bundle": fitting[2], "held": [fitting[2]]}
            with by_hand.session(**own) as events:
                assert next(events)["event"] == "accepted"
                assert by_hand.refused(**own).status_code == 409
                assert by_hand.refused(bundle="0" * 32, held=[]).status_code == 410
                assert shelves.at_server() == {fitting[2]}
            wait_for(lambda: not server.workers(), 20, "the session's end")
            assert shelves.at_server() == {fitting[2]}, "a session that came to nothing uses nothing up"

            def told_that_nothing_is_held() -> bool:
                assert by_hand.refused(bundle="0" * 32, held=[]).status_code == 410
                return shelves.at_server() == set()

            wait_for(told_that_nothing_is_held, 20, "the server's half to go, once no session has it")


def test_without_a_folder_nothing_is_prepared_and_nothing_lost(shelves: Shelves, export_folder: Path, keys: Path) -> None:
    with shelves.serving():
        shelves.client().prepare(1, tokens_each=1)
    with serving(export_folder, keys, shelves.folder / "plain.log", "--listen", shelves.address):
        with pytest.raises(SessionError, match="--prepare-folder"):
            shelves.client().prepare(2, tokens_each=1)
        told: list[str] = []
        answer = shelves.client().ask(PROMPTS[0], 1, on_progress=lambda progress: told.append(progress.note))
        assert not answer.prepared
        assert any("keeps no prepared answers" in note for note in told)
        with pytest.raises(SessionError, match="keeps no prepared answers"):
            shelves.client(prepared="only").ask(PROMPTS[0], 1)
    assert len(shelves.at_client()) == len(shelves.at_server()) == 1


def test_nothing_is_used_twice_whatever_is_killed(shelves: Shelves, hooked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burnt() -> list[tuple[str, str]]:
        return [(role, name) for role, name in map(str.split, hooked.read_text().splitlines())]

    def assert_asking_ends(code: int) -> None:
        command = shelves.ask("--new-tokens", "1", "--prepared", "only")
        result = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert result.returncode == code, result

    @contextlib.contextmanager
    def halves_agree() -> Iterator[None]:
        """Whoever is killed meanwhile."""
        before = shelves.at_client()
        yield
        at_client, at_server = shelves.at_client(), shelves.at_server()
        assert at_client <= at_server, "the server's halves of what the client has are there"
        assert len(at_server - at_client) <= 1
        assert len(before) - len(at_client) <= 1
        assert not at_client & {name for role, name in burnt() if role == "client"}
        assert not at_server & {name for role, name in burnt() if role == "server"}

    def client_killed(at: str, server: Serving) -> None:
        """One question during which the client's worker and its parent are killed; the server goes on."""
        with halves_agree(), monkeypatch.context() as patch:
            patch.setenv("HUSH_TEST_KILL_AT", at)
            assert_asking_ends(-9)
            wait_for(lambda: not server.workers(), 30, "the end of the server's worker")

    def server_killed(at: str) -> None:
        """One question during which the server's worker and its parent are killed."""
        with halves_agree(), contextlib.ExitStack() as stack:
            with monkeypatch.context() as patch:
                patch.setenv("HUSH_TEST_KILL_AT", at)
                server = stack.enter_context(shelves.serving())
            assert_asking_ends(2)
            assert server.process.wait(10) == -9

    with shelves.serving() as server:
        shelves.client().prepare(7, tokens_each=1)
        everything = shelves.at_client()
        client_killed("client:held", server)
        assert shelves.at_client() == shelves.at_server() == everything, "nothing was burnt before both said that they hold it"
        client_killed("client:burnt", server)
        assert len(shelves.at_server() - shelves.at_client()) == 1, "the client has burnt its half, and the server does not know"
        client_killed("client:taken", server)
        assert shelves.at_client() == shelves.at_server(), "the next request told the server"
    server_killed("server:held")
    server_killed("server:burnt")
    server_killed("server:taken")
    with shelves.serving():
        assert shelves.client(prepared="only").ask(PROMPTS[0], 1).prepared
    assert shelves.at_client() == shelves.at_server()
    used = burnt()
    assert len(used) == len(set(used)), "no half was ever burnt twice"
    assert not {name for _, name in used} & shelves.at_client()
    assert {name for _, name in used} | shelves.at_client() == everything
    assert len(everything - shelves.at_client()) == 5


def test_a_preparation_that_is_killed_keeps_what_was_stored(shelves: Shelves, hooked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSH_TEST_BATCH", "2")
    command = ["prepare", str(shelves.export / "client"), "--keys", str(shelves.keys), "--answers", "3", "--tokens-each", "1"]
    command += ["--prepared-folder", str(shelves.client_folder / "client")]
    with shelves.serving():
        monkeypatch.setenv("HUSH_TEST_KILL_AT", "client:stored")
        from tests.private.service import HUSHLM

        result = subprocess.run([*HUSHLM, *command, "--server", shelves.address], capture_output=True, text=True, timeout=200)
        assert result.returncode == -9, result
        monkeypatch.delenv("HUSH_TEST_KILL_AT")
        assert shelves.at_client() <= shelves.at_server()
        assert len(shelves.at_client()) == 1
        kept = shelves.at_client()
        result = run([*HUSHLM, *command, "--server", shelves.address], 300)
        assert result.returncode == 0, result.stderr
        assert "3 answers are prepared" in result.stdout
        assert "2 of them made now" in result.stdout
        assert shelves.at_client() == shelves.at_server()
        assert kept < shelves.at_client()


def test_preparing_makes_way_for_a_question(shelves: Shelves, hooked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSH_TEST_BATCH", "1")
    made_when_answered = []
    with shelves.serving("--workers", "1"):
        client, report, begun = shelves.client(), PreparationReport(), threading.Event()

        def question() -> None:
            begun.wait(100)
            shelves.client("alice", prepared="never").ask(PROMPTS[0], 1)
            made_when_answered.append(report.made)

        thread = threading.Thread(target=question)
        thread.start()

        async def prepare() -> None:
            async for progress in client.preparation(3, 1, 20, report, asyncio.Event()):
                if progress.phase == "preparing":
                    begun.set()

        asyncio.run(prepare())
        thread.join(200)
    assert made_when_answered, "the question was not answered"
    assert 1 <= made_when_answered[0] < 3
    assert report.made == 3
    assert report.sessions >= 2
    assert shelves.at_client() == shelves.at_server()
