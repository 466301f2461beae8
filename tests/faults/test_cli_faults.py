"""The error contract, tried: every command x every option that names a path x every kind of bad path, and every kind of bad output.

Accepted are the exit codes 0, 1, 2, 130 and 141; a refusal is one sentence, alone on standard error; no call hangs or takes all memory.
`python -m tests.faults.table` writes how many inputs were tried, refused and worked into docs/reliability.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from hushlm.cli.main import COMMANDS
from hushlm.report.table import progress_console
from tests.faults import table
from tests.faults.bad_paths import KINDS, UNREADABLE
from tests.faults.calls import Places, path_options, sound_calls
from tests.faults.fuzz import NOWHERE, Case, cases, make_places, run_call, run_case

pytest.importorskip("spu", reason="the private extra is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo") or not hasattr(os, "seteuid"), reason="needs a POSIX system")

CALLS = sound_calls(NOWHERE)
NAMED = [f"{call.command.replace(' ', '-')}{number}" for number, call in enumerate(CALLS)]
OPTIONS = [(number, option) for number, call in enumerate(CALLS) for option in path_options(call.command)]


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    made = make_places()
    yield made
    shutil.rmtree(made.scratch.parent, ignore_errors=True)


EVERY = 4
"""The fast tier tries each option with every fourth kind, the next option with the next ones; the slow tier tries the rest."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["some", pytest.param("rest", marks=pytest.mark.slow)])
@pytest.mark.parametrize("index", range(len(OPTIONS)), ids=[f"{NAMED[number]}-{option}" for number, option in OPTIONS])
def test_a_bad_path_is_refused_in_a_sentence_or_serves(index: int, part: str, places: Places) -> None:
    number, option = OPTIONS[index]
    broken = []
    for position, kind in enumerate(KINDS):
        if ((position + index) % EVERY == 0) != (part == "some"):
            continue
        outcome = run_case(Case(number, option, kind, CALLS[number].command), places)
        if outcome.fault:
            broken.append(f"{kind}: {outcome.fault}; {' '.join(outcome.words)!r}: {outcome.err.strip()[-300:]}")
    assert not broken, "\n".join(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("output", ["sound", "ascii", "closed"])
@pytest.mark.parametrize("number", range(len(CALLS)), ids=NAMED)
def test_a_sound_call_works_whatever_takes_its_output(number: int, output: str, places: Places) -> None:
    call = sound_calls(places)[number]
    outcome = run_call(call, places, encoding="ascii" if output == "ascii" else "utf-8", closed=output == "closed")
    assert not outcome.fault, outcome
    asks_nobody = call.options.get("server") == "127.0.0.1:1"
    never_ends = 130 if call.command == "demo" else 0  # it is interrupted where its trainings would begin
    expected = {2} if asks_nobody else {never_ends, 141} if output == "closed" else {never_ends}
    assert outcome.code in expected, outcome


def test_the_kinds_that_need_another_users_rights_are_tried_with_them(places: Places) -> None:
    """As root every file can be read; where the tests cannot change to another user they say so here."""
    if os.geteuid() != 0:
        pytest.skip("not root: the permissions of the files themselves are enough")
    for kind in UNREADABLE:
        number = next(n for n, call in enumerate(CALLS) if call.command == "export")
        option = "checkpoint" if kind == "unreadable" else "output"
        outcome = run_case(Case(number, option, kind, "export"), places)
        assert outcome.refused, outcome
        assert "Permission denied" in outcome.err or "not be" in outcome.err or "cannot" in outcome.err or "no folder" in outcome.err


def test_every_command_is_tried() -> None:
    assert {case.command for case in cases()} == set(COMMANDS)
    assert all(path_options(command) for command in COMMANDS)


def test_the_table_in_the_documentation_is_of_these_cases() -> None:
    tried = table.read(table.PAGE.read_text(encoding="utf-8"))
    counted = {command: sum(case.command == command for case in cases()) for command in COMMANDS}
    assert {command: row["tried"] for command, row in tried.items()} == counted
    assert all(row["tried"] == row["refused"] + row["worked"] for row in tried.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "codes"),
    [(">&-", {0}), ("> /dev/full", {2}), ("| true", {0, 141}), ("2>&- >&-", {0})],
    ids=["closed", "full disk", "reader gone", "both closed"],
)
def test_real_processes_with_nowhere_to_write(redirection: str, codes: set[int]) -> None:
    command = f"{sys.executable} -m hushlm architectures {redirection}; echo ${{PIPESTATUS[0]}} >&3"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {{ {command}; }} 4>&1"], capture_output=True, text=True, timeout=120)
    assert int(done.stdout.split()[-1]) in codes, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if codes == {2} else 0), done.stderr


def test_progress_that_nobody_watches_ends_no_command() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone, mock.patch.object(sys, "stderr", gone):
        console = progress_console()
        console.print("a first line")
        console.print("and one that is dropped")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


@pytest.mark.slow
def test_a_real_terminal_without_the_characters(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "hushlm", "architectures"], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    done = subprocess.run(
        [sys.executable, "-m", "hushlm", "eval", "déjà-vu"], env=environment, capture_output=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == b"hushlm: CHECKPOINT: this is not text in UTF-8; rename the file, or convert the text.\n"
