"""Compiled programs kept on disk: found again by equal keys alone, never damaged, bounded, for one user."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from tests.private.models import SMALL, arrays, random_model

from hushlm.architectures import parse
from hushlm.plan import Reveal
from hushlm.private.engine import Engine, Executable, Party, ProgramStore, compile_program, program_store
from hushlm.private.engine.program_store import FOLDER_VARIABLE
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.description import RevealPolicy, describe
from hushlm.private.program.export_model import choose_rewrites
from hushlm.private.program.fold import fold_weights
from hushlm.private.program.generate import PrivateGenerator
from hushlm.private.session import worker
from hushlm.private.session.process import Order

pytest.importorskip("spu")


@pytest.fixture
def store(tmp_path: Path) -> ProgramStore:
    return ProgramStore(tmp_path / "programs", "a session")


def _sum() -> Executable:
    return compile_program(lambda a, b: a + b, [(3,), (3,)], 1, "sum")


def _never() -> Executable:
    raise AssertionError("compiled although it was kept")


def test_what_was_kept_is_found_by_the_next_session(store: ProgramStore, tmp_path: Path) -> None:
    first = store.compiled(("sum", (3,)), _sum)
    found = ProgramStore(tmp_path / "programs", "a session").compiled(("sum", (3,)), _never)
    assert (found.native.code, found.inputs, found.outputs) == (first.native.code, first.inputs, first.outputs)


@pytest.mark.parametrize(
    "other", [("sum", (4,)), ("sum", (3,), 1), ("sum", "3"), ("sum", 3), ("sum", (3.0,)), ("sum", (True,)), ("sum", np.float32)]
)
def test_another_key_finds_nothing(store: ProgramStore, other: tuple) -> None:
    store.compiled(("sum", (3,)), _sum)
    compiled = []

    def now() -> Executable:
        compiled.append(True)
        return _sum()

    store.compiled(other, now)
    assert compiled


def test_another_session_finds_nothing(store: ProgramStore, tmp_path: Path) -> None:
    store.compiled("sum", _sum)
    with pytest.raises(AssertionError, match="although it was kept"):
        ProgramStore(tmp_path / "programs", "another session").compiled("sum", _never)


def test_sessions_of_models_that_differ_in_heads_alone_differ() -> None:
    """Their projections have the same sizes, and so the same keys, and are split into heads differently."""

    def session(heads: int) -> object:
        description = describe(parse("SM2+R"), replace(SMALL, heads=heads, width=32))
        order = Order(
            role="client", folder=Path(), scratch=Path(), own_address="", peer_address="", fingerprint="", prompt_length=3, new_tokens=1,
            reveal=RevealPolicy(), connect_seconds=1, silent_seconds=1,
        )  # fmt: skip
        return worker._session(order, description)

    assert session(2) != session(4)
    assert session(2) == session(2)


def test_a_field_that_repr_leaves_out_tells_keys_apart(store: ProgramStore) -> None:
    one, two = Reveal(16, "token"), Reveal(16, "token", rows=2)
    assert repr(one) == repr(two)
    store.compiled(("reveal", one), _sum)
    with pytest.raises(AssertionError, match="although it was kept"):
        store.compiled(("reveal", two), _never)


def test_a_key_without_a_spelling_is_refused(store: ProgramStore) -> None:
    with pytest.raises(TypeError, match="has a function in it"):
        store.compiled(("sum", lambda: None), _sum)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace("add", "mul", 1), lambda _: "", lambda text: "x" + text]
)
def test_damage_is_compiled_again(store: ProgramStore, tmp_path: Path, damage: Callable[[str], str]) -> None:
    good = store.compiled("sum", _sum)
    (path,) = (tmp_path / "programs").iterdir()
    path.write_text(damage(path.read_text()))
    assert store.compiled("sum", _sum).native.code == good.native.code
    store.compiled("sum", _never)


def test_other_sources_or_libraries_find_nothing(store: ProgramStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.compiled("sum", _sum)
    monkeypatch.setattr(program_store, "_made_by", lambda: ["another hushlm"])
    with pytest.raises(AssertionError, match="although it was kept"):
        store.compiled("sum", _never)


def test_the_folder_is_its_user_s_alone(store: ProgramStore, tmp_path: Path) -> None:
    store.compiled("sum", _sum)
    folder = tmp_path / "programs"
    (path,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_what_was_used_longest_ago_is_dropped(store: ProgramStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.compiled("a", _sum)
    (path,) = (tmp_path / "programs").iterdir()
    os.utime(path, (1, 1))
    monkeypatch.setattr(program_store, "MOST_BYTES", 2 * path.stat().st_size + 100)
    store.compiled("b", _sum)
    store.compiled("a", _never)  # used now
    os.utime(next(each for each in (tmp_path / "programs").iterdir() if each != path), (2, 2))
    store.compiled("c", _sum)
    store.compiled("a", _never)
    with pytest.raises(AssertionError, match="although it was kept"):
        store.compiled("b", _never)


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert ProgramStore(tmp_path / "file" / "programs", None).compiled("sum", _sum).inputs == ("in0", "in1")


def test_the_environment_names_the_folder_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    assert ProgramStore.of_user(None) is None
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = ProgramStore.of_user(None)
    assert found is not None
    found.compiled("sum", _sum)
    assert list((tmp_path / "hushlm" / "programs").iterdir())


@dataclass
class _Counting:
    """A store that counts what it compiles."""

    store: ProgramStore
    compiled_keys: list = field(default_factory=list)

    def compiled(self, key: tuple, compile_now: Callable[[], Executable]) -> Executable:
        def now() -> Executable:
            self.compiled_keys.append(key)
            return compile_now()

        return self.store.compiled(key, now)


@pytest.mark.parametrize("name", ["SM+LN+G", "EReg(SM(t)+ScFuFFN)", "NeoX(SM2(th)+LN+R)", "Llama(PS3(th)+RMS+SwiQ)"])
def test_an_answer_of_kept_programs_is_the_same(store: ProgramStore, name: str) -> None:
    architecture = parse(name)
    state = arrays(random_model(architecture, SMALL, 1, spread=0.15))
    rewrites, _ = choose_rewrites(state, architecture, SMALL, 18)
    description = describe(architecture, SMALL, rewrites, simulate=True)
    weights, answers, counts = fold_weights(state, architecture, SMALL, rewrites), [], []
    for _ in range(2):
        counting = _Counting(store)
        engine = Engine(Party.CLIENT, description.engine, None, counting)  # type: ignore[arg-type]
        generator = PrivateGenerator(EngineBackend(engine), description, weights)
        answers.append([answer.token for answer in generator.generate(range(5), 5, 3)])
        counts.append(len(counting.compiled_keys))
    assert answers[0] == answers[1]
    assert counts[0] > 5
    assert counts[1] == 0
