"""The service whole: `hushlm serve` and `hushlm ask` in processes of their own, over TLS; and every mistake in one sentence."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

pytest.importorskip("spu")

from tests.private.service import PROMPTS, Serving, ask_command, assert_one_sentence, run, serving, session_folders, wait_for

from hushlm.cli.main import main
from hushlm.private.client.client import Client, Progress
from hushlm.private.engine.traffic import Traffic
from hushlm.private.keys.certificates import client_context, create_keys, load_keys, server_context
from hushlm.private.program.description import RevealPolicy
from hushlm.training import Checkpoint

LONG_PROMPT = "17 zeta beta alpha gamma beta epsi"
"""Longer than the context: its last tokens are asked with --truncate."""

NEW_TOKENS = 3


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """For requests that it must refuse, or that never reach it."""
    with serving(export_folder, key_folder, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@torch.no_grad()
def plain_logits(checkpoint: Checkpoint, tokens: list[int], answer: list[int]) -> torch.Tensor:
    """Of each token of the answer, (len(answer), V)."""
    return checkpoint.model(torch.tensor([tokens + answer[:-1]])).logits_BTV[0, len(tokens) - 1 :]


def clear_answer(checkpoint: Checkpoint, prompt: str) -> tuple[list[int], list[int]]:
    """Prompt and greedy answer of the plaintext model, which must be clear enough to be compared with."""
    tokens = checkpoint.tokenizer.encode(prompt).ids[-(checkpoint.model.shape.context - NEW_TOKENS) :]
    answer = checkpoint.model.greedy(tokens, NEW_TOKENS)
    top = plain_logits(checkpoint, tokens, answer).topk(2, dim=-1).values
    assert (top[:, 0] - top[:, 1]).min() > 0.1
    return tokens, answer


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(400)
def test_private_answers_equal_the_plaintext_ones(
    served_checkpoint: Checkpoint, export_folder: Path, key_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = ["--new-tokens", str(NEW_TOKENS), "--json"]
    answers = []
    with serving(export_folder, key_folder, tmp_path / "server.log", engine_threads=None) as running:
        asked = ask_command(PROMPTS[0], export_folder, key_folder, running.address, *options)
        first = run(asked, 180)
        asked = ask_command("-", export_folder, key_folder, running.address, *options, "--truncate", "--reveal", "logits")
        second = run(asked, 180, stdin=LONG_PROMPT)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        log = running.log.read_text()
    for prompt, result in ((PROMPTS[0], first), (LONG_PROMPT, second)):
        assert result.returncode == 0, result.stderr
        answer = json.loads(result.stdout)
        tokens, plain = clear_answer(served_checkpoint, prompt)
        assert answer["tokens"] == plain
        assert answer["text"] == served_checkpoint.tokenizer.decode(plain)
        assert answer["prompt_tokens"] == len(tokens)
        assert answer["prompt_text"] == served_checkpoint.tokenizer.decode(tokens)
        for part in (answer, answer["set_up"]):
            assert min(part["bytes_client_to_server"], part["bytes_server_to_client"], part["messages"], part["seconds"]) > 0
        assert answer["expected_bytes"] == pytest.approx(answer["bytes_client_to_server"] + answer["bytes_server_to_client"], rel=0.1)
        for count in ("bytes_client_to_server", "bytes_server_to_client", "messages"):
            by_operation = sum(moved[count] for moved in answer["by_operation"].values())
            assert by_operation == sum(moved[count] for moved in answer["by_layer"].values())
            # The rest is the server's share of what is revealed.
            assert 0 <= answer[count] - by_operation <= NEW_TOKENS * 5000 * (count != "bytes_client_to_server")
        answers.append(answer)
    assert answers[0]["tokens"] != answers[1]["tokens"]
    logits = torch.tensor([entry["logits"] for entry in answers[1]["answers"]])
    wanted = plain_logits(served_checkpoint, *clear_answer(served_checkpoint, LONG_PROMPT))
    assert (logits - wanted).abs().max() < 0.03 * wanted.std()
    # The engine's keys are most of the set-up, and do not depend on the question.
    sizes = [answer["set_up"]["bytes_client_to_server"] for answer in answers]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]
    assert log.count('"outcome": "finished"') == 2
    assert "Traceback" not in log
    assert session_folders(tmp_path) == []


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(300)
def test_a_server_finishes_its_session_before_it_stops(
    served_checkpoint: Checkpoint, export_folder: Path, key_folder: Path, tmp_path: Path
) -> None:
    """And meanwhile tells others that it is busy; progress comes in order."""
    seen: list[Progress] = []
    busy = []
    with serving(export_folder, key_folder, tmp_path / "server.log", "--queue", "0", "--drain-seconds", "240") as running:

        def note(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == 1:
                with httpx.Client(verify=client_context(load_keys(key_folder, "client")), trust_env=False) as http:
                    health = http.get(f"https://{running.address}/health").json()
                assert health == {"status": "ok", "sessions": 1, "workers": 1}
                busy.append(run(ask_command("a", export_folder, key_folder, running.address), 60))
                running.process.send_signal(signal.SIGTERM)

        answer = Client(export_folder / "client", running.address, key_folder).ask(PROMPTS[1], NEW_TOKENS, on_progress=note)
        assert running.process.wait(20) == 0
        assert "finished" in running.log.read_text()
    assert_one_sentence(busy[0], "worker is busy: try again later.")
    assert list(answer.tokens) == clear_answer(served_checkpoint, PROMPTS[1])[1]
    assert [progress.phase for progress in seen[:3]] == ["note", "set-up", "set-up"], "nothing was prepared"
    query = seen[3:]
    assert {progress.phase for progress in query} == {"query"}
    assert [progress.token for progress in query] == sorted(progress.token for progress in query)
    assert query[-1].token == query[-1].tokens == NEW_TOKENS
    assert query[-1].step == query[-1].steps
    assert {progress.layer for progress in query} == {None, 1, 2}
    assert {progress.layers for progress in query} == {2}
    shares = [progress.done_share for progress in query]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == pytest.approx(1)
    assert query[-1].remaining_seconds == pytest.approx(0, abs=1e-6)
    assert min(progress.remaining_seconds for progress in query[:-1]) > 0
    # A step's traffic is the token's, but for the opening of the answer.
    assert 0 < query[-1].traffic.total_bytes <= answer.query.total_bytes
    assert answer.query == sum((part.traffic for part in answer.answers), Traffic())


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(300)
@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_server_on_ipv6_answers(served_checkpoint: Checkpoint, export_folder: Path, tmp_path: Path, host: str) -> None:
    """The control connection and the engines' links; `::` takes both families. The keys are those that `keys create` makes by default."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    keys = tmp_path / "keys"
    assert main(["keys", "create", str(keys)]) == 0
    with serving(export_folder, keys, tmp_path / "server.log", "--listen", f"[{host}]:0") as running:
        assert running.address.startswith(f"[{host}]:")
        port = running.address.rpartition(":")[2]
        addresses = [f"[::1]:{port}"] if host == "::1" else [f"[::1]:{port}", f"127.0.0.1:{port}"]
        for address in addresses:
            result = run(ask_command(PROMPTS[0], export_folder, keys, address, "--new-tokens", "1", "--json"), 180)
            assert result.returncode == 0, result.stderr
            assert json.loads(result.stdout)["tokens"] == clear_answer(served_checkpoint, PROMPTS[0])[1][:1]
        assert "Traceback" not in running.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_three_modes_give_one_answer(served_checkpoint: Checkpoint, export_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = clear_answer(served_checkpoint, PROMPTS[0])[1]
    for mode, folder in (("plain", served_checkpoint.folder), ("simulate", export_folder)):
        options = ["--model", str(folder), "--mode", mode, "--new-tokens", str(NEW_TOKENS), "--json"]
        assert main(["ask", PROMPTS[0], *options]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["mode"] == mode
        assert answer["tokens"] == wanted
        assert answer["bytes_client_to_server"] is None
        assert answer["set_up"] is None


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *parts: str) -> None:
    """The command says no in one sentence, with exit code 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hushlm: ")
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err, captured.err


Asking = Callable[..., list[str]]


@pytest.fixture
def asking(export_folder: Path, key_folder: Path, server: Serving) -> Asking:
    """asking(prompt, "--option", ...) -> arguments of `hushlm ask`; later options replace earlier ones."""

    def arguments(prompt: str, *options: str) -> list[str]:
        return ask_command(prompt, export_folder, key_folder, server.address, *options)[3:]

    return arguments


@pytest.mark.parametrize(
    ("prompt", "options", "part"),
    [
        (LONG_PROMPT, ("--new-tokens", "3"), "shorten it, or keep its last tokens with --truncate"),
        ("a", ("--new-tokens", "32"), "ask for at most 31"),
        ("a", ("--new-tokens", "0"), "At least one token"),
        ("", (), "The prompt is empty"),
        ("a", ("--reveal", "everything"), "topk:K"),
        ("a", ("--reveal", "topk:0"), "topk:K"),
        ("a", ("--mode", "magic"), "magic"),
        ("a", ("--server", "nowhere"), "HOST:PORT"),
        ("a", ("--connect-seconds", "0"), "above 0 seconds"),
        ("a", ("--client", "nobody"), "nobody.pem"),
        ("a", ("--server", "no-such-host.invalid:9"), "No server can be reached at no-such-host.invalid:9"),
    ],
)
@pytest.mark.timeout(60)
def test_a_mistake_in_a_question_is_named(
    asking: Asking, capsys: pytest.CaptureFixture[str], prompt: str, options: tuple[str, ...], part: str
) -> None:
    refused(capsys, asking(prompt, *options), part)


@pytest.mark.timeout(60)
def test_a_folder_of_the_wrong_kind_is_named(
    asking: Asking, export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, asking("a", "--model", str(export_folder / "server")), "needs the export's client/ folder")
    refused(capsys, asking("a", "--model", str(tmp_path)), "manifest.json")
    refused(capsys, asking("a", "--keys", str(tmp_path)), "hushlm keys create")
    for option, value in (("--keys", str(tmp_path)), ("--server", "127.0.0.1:8440"), ("--reveal", "topk:5"), ("--prepared", "only")):
        refused(capsys, ["ask", "a", option, value], "ask needs --model")  # the model in the box has none of these
    refused(capsys, ["ask", "a", "--model", str(export_folder / "client")], "--keys")
    refused(
        capsys, ["ask", "a", "--model", str(export_folder / "client"), "--mode", "simulate"], "needs the folder that `hushlm export` wrote"
    )
    torn = tmp_path / "client"
    shutil.copytree(export_folder / "client", torn)
    (torn / "tokenizer.json").write_text("{}")
    refused(capsys, asking("a", "--model", str(torn)), "was altered")


@pytest.mark.timeout(60)
def test_a_server_that_cannot_start_says_why(
    export_folder: Path, key_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["--keys", str(key_folder)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(capsys, ["serve", str(export_folder / "server"), *keys, "--listen", address], address, "in use", "--listen")
    refused(capsys, ["serve", str(export_folder / "server"), *keys, "--listen", "203.0.113.5:0"], "cannot listen on 203.0.113.5:0")
    refused(capsys, ["serve", str(export_folder / "client"), *keys], "holds no weights")
    refused(capsys, ["serve", str(tmp_path), *keys], "manifest.json")
    refused(capsys, ["serve", str(export_folder / "server")], "--keys")
    refused(capsys, ["serve", str(export_folder / "server"), *keys, "--workers", "0"], "at least one worker")
    refused(capsys, ["serve", str(export_folder / "server"), *keys, "--engine-threads", "65"], "1 to 64 threads, not 65")
    refused(capsys, ["serve", str(export_folder / "server"), "--keys", str(tmp_path)], "server.pem")


@pytest.mark.timeout(60)
def test_strangers_are_told_that_they_are(
    asking: Asking, key_folder: Path, tmp_path: Path, server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client of another authority, one whose certificate this server does not take, and a server under another name."""
    other = tmp_path / "other"
    create_keys(other, ["127.0.0.1"])
    refused(capsys, asking("a", "--keys", str(other)), "is not one that", "vouches for", "check the address and the keys")
    port = server.address.rpartition(":")[2]
    refused(capsys, asking("a", "--server", f"127.0.0.2:{port}", "--connect-seconds", "2"), "No server can be reached at 127.0.0.2")
    ours = server_context(load_keys(key_folder, "server"))
    with _Listener("127.0.0.3", lambda connection: ours.wrap_socket(connection, server_side=True)) as address:
        refused(capsys, asking("a", "--server", address), "under this name")
    suspicious = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(other / "authority.pem"))
    suspicious.verify_mode = ssl.CERT_REQUIRED
    suspicious.load_cert_chain(key_folder / "server.pem", key_folder / "server.key")
    with _Listener("127.0.0.1", lambda connection: suspicious.wrap_socket(connection, server_side=True)) as address:
        refused(capsys, asking("a", "--server", address), "does not accept the certificate in")
    assert server.workers() == []


class _Listener:
    """Does one thing with every connection, in a thread."""

    def __init__(self, host: str, handle: Callable[[socket.socket], socket.socket | None]) -> None:
        self._listener = socket.create_server((host, 0))
        self._handle = handle
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return "{}:{}".format(*self._listener.getsockname())

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    wrapped = self._handle(connection)
                except OSError:
                    continue
                if wrapped is not None:
                    wrapped.close()


@pytest.mark.timeout(60)
def test_what_is_no_server_of_ours_is_told_apart(asking: Asking, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
    refused(capsys, asking("a", "--server", address), f"No server can be reached at {address}")

    def plaintext(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with _Listener("127.0.0.1", plaintext) as address:
        refused(capsys, asking("a", "--server", address), "does not speak TLS")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_another_program_is_refused_before_any_share_moves(
    asking: Asking, served_checkpoint: Checkpoint, tmp_path: Path, server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    from hushlm.private.program.export_model import export_model

    export_model(served_checkpoint, tmp_path / "other", fraction_bits=16)
    refused(capsys, asking("a", "--model", str(tmp_path / "other" / "client")), "refused", "The client's program is", "this server's")
    assert server.workers() == []


def test_keys_are_made_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert main(["keys", "create", str(folder), "--host", "127.0.0.1,example.org", "--days", "30"]) == 0
    assert main(["keys", "add-client", str(folder), "--name", "alice"]) == 0
    assert "authority.key" in capsys.readouterr().out
    load_keys(folder, "server")
    load_keys(folder, "alice")
    refused(capsys, ["keys", "create", str(folder), "--host", "127.0.0.1"], "holds keys already")
    assert main(["keys", "create", str(tmp_path / "new")]) == 0
    assert "as 127.0.0.1, localhost, ::1; to allow other machines, add --host HOST" in capsys.readouterr().out
    refused(capsys, ["keys", "create", str(tmp_path / "none"), "--host", ","], "--host")
    refused(capsys, ["keys", "add-client", str(tmp_path), "--name", "bob"], "authority.pem")
    refused(capsys, ["keys", "destroy", str(folder)], "create")


STARTER = """
import sys, time
from pathlib import Path
from hushlm.demo.private_answer import serving
with serving(Path(sys.argv[1])) as address:
    print(address, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_demo_s_server_does_not_outlive_a_killed_demo(export_folder: Path, key_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "server").symlink_to(export_folder / "server")
    (tmp_path / "server-keys").symlink_to(key_folder)
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        try:
            host, _, port = starter.stdout.readline().strip().partition(":")
            socket.create_connection((host, int(port)), 5).close()
        finally:
            starter.kill()

    def gone() -> bool:
        try:
            socket.create_connection((host, int(port)), 5).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for(gone, 20, "the end of the server")
    assert "Traceback" not in (tmp_path / "server.log").read_text()


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(300)
def test_a_batch_of_two_parties_is_scored_in_one_pass_a_line(
    served_checkpoint: Checkpoint, export_folder: Path, key_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server allows tokens alone, and one of some candidates is less; what it refuses ends the batch after what is answered."""
    prompt, words = "3 alpha b", ("e", "z", "l")
    source, output = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    lines = [
        {"prompt": prompt, "candidates": words, "expected": "e"},
        {"prompt": "", "candidates": words},
        {"prompt": "a", "new_tokens": 9},
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(export_folder, key_folder, tmp_path / "server.log", "--allow-reveal", "token", "--new-tokens", "4") as running:
        client = ["--model", str(export_folder / "client"), "--keys", str(key_folder), "--server", running.address]
        assert main(["ask", "--batch", str(source), "--output", str(output), *client]) == 2
        said = capsys.readouterr().err
    assert "at most 4 tokens a session, not 9. 2 of 3 lines are answered in" in said
    scored, failed = (json.loads(line) for line in output.read_text().splitlines())
    logits = plain_logits(served_checkpoint, served_checkpoint.tokenizer.encode(prompt).ids, [0])[0]
    assert scored["candidate"] == max(words, key=lambda word: float(logits[ord(word)])) == "e"
    assert (scored["right"], scored["tokens"], scored["prepared"]) == (True, [ord("e")], False)
    asking = Client(export_folder / "client", running.address, key_folder)
    expected = asking.estimate(len(prompt), 1, RevealPolicy(kind="candidates", candidates=(101, 108, 122))).bytes
    assert scored["bytes"] == pytest.approx(expected, rel=0.1)
    assert expected < asking.estimate(len(prompt), 1).bytes
    assert "The prompt is empty" in failed["error"]
    assert '"reveal": "candidates:101,108,122"' in running.log.read_text()
