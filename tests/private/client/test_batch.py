"""Candidates as tokens, and batches of questions: in order, errors by line, and after a kill only what was not answered."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")

from tests.private.service import HUSHLM

from hushlm.cli.main import main
from hushlm.data.tokenizer import Tokenizer
from hushlm.data.tokenizer_choice import make_tokenizer
from hushlm.files import one_writer
from hushlm.private.client.batch import BatchOptions, run_batch
from hushlm.private.client.candidates import candidate_tokens
from hushlm.private.client.local_answers import PlainModel
from hushlm.private.session.messages import SessionError, UnaskableError
from hushlm.training import Checkpoint

QUESTIONS: list[Any] = [
    {"prompt": "3 alpha b", "candidates": ["e", "z"], "id": "first", "expected": "e"},
    {"prompt": "1 be", "new_tokens": 3},
    "not JSON",
    {"prompt": "3 alpha b", "candidates": ["e", "eta"]},
    {"prompt": "", "id": 5},
    {"prompt": "3 alpha b", "candidates": ["e", "z"], "new_tokens": 2},
    {"prompt": "3 alpha ", "surprise": 1},
    {"prompt": "1 be"},
]
SENTENCES = {
    3: "This line is not a question",
    4: "The candidate 'eta' is 3 tokens after this prompt, and must be one",
    5: "The prompt is empty",
    6: "A line with candidates asks for one token, not 2",
    7: "This line is not a question (surprise: ",
}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Byte-level BPE to which `yes`, `no` and the like are one token, with a space before them or without."""
    return make_tokenizer("bpe:600", ["is it so? yes it is, no it is not: yes no yes no maybe (yes) (no) \n" * 200])


@pytest.fixture(scope="module")
def plain(served_checkpoint: Checkpoint) -> PlainModel:
    return PlainModel(served_checkpoint.folder)


def written(path: Path, questions: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in questions))
    return path


def answers(path: Path) -> list[dict[str, Any]]:
    """Without the times that they took."""
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in path.read_text().splitlines()]


def batch_command(checkpoint: Checkpoint, source: Path, output: Path, *options: str) -> list[str]:
    return ["ask", "--batch", str(source), "--output", str(output), "--mode", "plain", "--model", str(checkpoint.folder), *options]


def test_a_space_stands_between_prompt_and_candidate_where_a_word_has_one(words: Tokenizer) -> None:
    spaced, bare = ([words.encode(text).ids for text in pair] for pair in ((" yes", " no"), ("yes", "no")))
    assert [len(ids) for ids in (*spaced, *bare)] == [1] * 4
    for prompt, found in (("is it so?", spaced), ("is it so?\n", bare), ("is it (", bare)):
        assert candidate_tokens(words, prompt, ["yes", "no"]) == {found[0][0]: "yes", found[1][0]: "no"}, prompt
    assert candidate_tokens(words, "is it (", [" yes", " no"]) == {spaced[0][0]: " yes", spaced[1][0]: " no"}
    # Bytes are one token each, without the space alone.
    assert candidate_tokens(make_tokenizer("bytes", []), "3 alpha", ["b", "g"]) == {98: "b", 103: "g"}


@pytest.mark.parametrize(
    ("prompt", "candidates", "sentence"),
    [
        ("is it so?", ["yes"], "has 2 to 256 candidates, not 1"),
        ("is it so?", [str(number) for number in range(257)], "has 2 to 256 candidates, not 257"),
        ("is it so?", ["yes", "yes"], "'yes' and 'yes' are the same token"),
        ("is it so?", ["yes", " yes"], "'yes' and ' yes' are the same token"),
        ("is it so?", ["yes", "xylophone"], "' xylophone' is [0-9]+ tokens after this prompt"),
        ("is it so?", ["yes", ""], "A candidate is empty"),
        ("is it so? ye", ["s", "t"], "end the prompt where a word ends|tokens after this prompt"),
    ],
)
def test_what_is_no_candidate_is_refused(words: Tokenizer, prompt: str, candidates: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        candidate_tokens(words, prompt, candidates)


def test_a_batch_is_answered_in_order_with_errors_by_line(
    served_checkpoint: Checkpoint, plain: PlainModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = written(tmp_path / "questions.jsonl", QUESTIONS), tmp_path / "new" / "answers.jsonl"
    command = batch_command(served_checkpoint, source, output, "--new-tokens", "2")
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"lines": 8, "answered": 8, "errors": 5, "kept": 0, "expected": 1, "right": 1}
    found = answers(output)
    assert [line["line"] for line in found] == list(range(1, 9))
    for number, sentence in SENTENCES.items():
        assert sentence in found[number - 1]["error"]
    assert [line.get("id") for line in found] == ["first", *[None] * 3, 5, *[None] * 3]
    assert (found[0]["candidate"], found[0]["right"]) == ("e", True)
    assert found[1]["text"] == plain.ask("1 be", 3).text
    assert found[7]["text"] == plain.ask("1 be", 2).text
    # Again: nothing is asked, and nothing changes.
    before = output.read_bytes()
    assert main(command) == 1
    assert "8 of 8 lines answered" in (out := capsys.readouterr().out)
    assert "(8 of them before), 5 with an error." in out
    assert "As expected: 1 of 1 (100.0%)." in out
    assert output.read_bytes() == before


def test_one_question_with_candidates(served_checkpoint: Checkpoint, export_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, folder in (("plain", served_checkpoint.folder), ("simulate", export_folder)):
        assert main(["ask", "3 alpha b", "--candidates", "z, e", "--model", str(folder), "--mode", mode, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["candidate"], answer["text"], answer["reveal"]) == ("e", "e", "candidates:101,122")
    assert main(["ask", "3 alpha b", "--candidates", "z, e", "--model", str(served_checkpoint.folder), "--mode", "plain"]) == 0
    assert "likeliest candidate:      'e'" in capsys.readouterr().out


def test_a_changed_question_another_model_and_other_files_are_refused(
    served_checkpoint: Checkpoint, plain: PlainModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = written(tmp_path / "questions.jsonl", QUESTIONS[:2]), tmp_path / "answers.jsonl"
    command = batch_command(served_checkpoint, source, output)
    assert main(command) == 0
    before = output.read_bytes()
    for changed, options in (
        ([QUESTIONS[1], QUESTIONS[0]], ()),
        (QUESTIONS[:1], ()),
        (QUESTIONS[:2], ("--new-tokens", "4")),
        (QUESTIONS[:2], ("--truncate",)),
    ):
        written(source, changed)
        assert main([*command, *options]) == 2
        assert "answers another question than line" in capsys.readouterr().err
    written(source, QUESTIONS[:2])
    plain_but_other = PlainModel(served_checkpoint.folder)
    plain_but_other.identity = "0" * 64
    with pytest.raises(ValueError, match="was asked of another model"):
        list(run_batch(plain_but_other, source, output, BatchOptions("plain", 8)))
    with one_writer(tmp_path / "held.jsonl"):
        busy = batch_command(served_checkpoint, source, tmp_path / "held.jsonl")
        held = subprocess.run([*HUSHLM, *busy], capture_output=True, text=True, timeout=120)
    assert (held.returncode, "Another process is writing" in held.stderr) == (2, True)
    assert output.read_bytes() == before
    # Lines that are not answered yet may change, and more may come.
    written(source, [*QUESTIONS[:2], QUESTIONS[7]])
    assert main(command) == 0
    assert output.read_bytes().startswith(before)
    for content in ("some words", "some words\n", '{"line": 1}\n', "[]\n"):
        output.write_text(content)
        assert main(command) == 2
        assert "something else than answers of a batch" in capsys.readouterr().err
        assert output.read_text() == content


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "The prompt is empty: write one, or name a file of questions"),
        (["a", "--batch", "SOURCE", "--output", "OUTPUT"], "go together and take no prompt beside them"),
        (["--batch", "SOURCE"], "go together and take no prompt beside them"),
        (["a", "--output", "OUTPUT"], "go together and take no prompt beside them"),
        (["a", "--candidates", "b,g", "--new-tokens", "2"], "leave --new-tokens and --reveal out"),
        (["a", "--candidates", "b,g", "--reveal", "logits"], "leave --new-tokens and --reveal out"),
        (["a", "--candidates", "b"], "2 to 256 candidates, not 1"),
        (["a", "--new-tokens", "0"], "At least one token"),
        (["--batch", "EMPTY", "--output", "OUTPUT"], "is empty: give lines such as"),
        (["--batch", "LATIN", "--output", "OUTPUT"], "is not UTF-8: byte 13"),
        (["--batch", "ABSENT", "--output", "OUTPUT"], "absent"),
    ],
)
def test_mistakes_are_said_in_one_sentence(
    served_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    places = {name: str(tmp_path / name.lower()) for name in ("SOURCE", "OUTPUT", "EMPTY", "LATIN", "ABSENT")}
    written(Path(places["SOURCE"]), QUESTIONS[:1])
    Path(places["EMPTY"]).touch()
    Path(places["LATIN"]).write_bytes(b'{"prompt": "\xe9"}\n')
    given = [places.get(word, word) for word in options]
    assert main(["ask", *given, "--mode", "plain", "--model", str(served_checkpoint.folder)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hushlm: ")]
    assert sentence in line
    assert not Path(places["OUTPUT"]).exists()


def test_a_line_that_cannot_be_looked_up_is_an_error_of_its_own(plain: PlainModel, tmp_path: Path) -> None:
    class Choosy(PlainModel):
        def __init__(self) -> None:
            self.__dict__ |= plain.__dict__

        def ask(self, prompt: str, *arguments: Any, **named: Any) -> Any:
            if prompt == "1 be":
                raise UnaskableError("Change a word.")
            return plain.ask(prompt, *arguments, **named)

    source, output = written(tmp_path / "questions.jsonl", [QUESTIONS[7], {"prompt": "3 alpha "}]), tmp_path / "answers.jsonl"
    *_, report = run_batch(Choosy(), source, output, BatchOptions("plain", 2))
    refused, answered = answers(output)
    assert (report.answered, report.errors) == (2, 1)
    assert refused["error"] == "Change a word."
    assert answered["text"]


def test_a_session_that_breaks_ends_the_batch_and_keeps_what_is_answered(plain: PlainModel, tmp_path: Path) -> None:
    """A real model whose second question breaks as a session does: what is asked again is the user's decision."""

    class Broken(PlainModel):
        def __init__(self) -> None:
            self.__dict__ |= plain.__dict__

        def ask(self, *arguments: Any, **named: Any) -> Any:
            raise SessionError("The server has gone.")

    source, output = written(tmp_path / "questions.jsonl", QUESTIONS), tmp_path / "answers.jsonl"
    options = BatchOptions("plain", 2)
    with pytest.raises(SessionError, match=r"The server has gone\. 1 of 8 lines are answered in .*: the same command goes on from there"):
        list(run_batch(Broken(), source, output, options))
    assert len(answers(output)) == 1
    *_, report = run_batch(plain, source, output, options)
    assert (report.answered, report.kept) == (8, 1)


@pytest.mark.timeout(180)
def test_a_killed_batch_goes_on_where_it_stopped(served_checkpoint: Checkpoint, tmp_path: Path) -> None:
    questions = [{"prompt": f"{number} alpha ", "new_tokens": 8} for number in range(150)]
    source, output = written(tmp_path / "questions.jsonl", questions), tmp_path / "answers.jsonl"
    command = batch_command(served_checkpoint, source, output)
    process = subprocess.Popen([*HUSHLM, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not output.exists() or output.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = output.read_bytes()
    whole = kept[: kept.rindex(b"\n") + 1]
    assert 5 <= whole.count(b"\n") < 150
    with output.open("ab") as file:  # the half of a line, as a crash of the machine may leave it
        file.write(b'{"line": 999, "te')
    assert main(command) == 0
    assert output.read_bytes().startswith(whole)
    undisturbed = tmp_path / "undisturbed.jsonl"
    assert main(batch_command(served_checkpoint, source, undisturbed)) == 0
    assert answers(output) == answers(undisturbed)
