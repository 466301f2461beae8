"""Every command x every option that names a path x every kind of fault: the cases, and one call for each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

from hushlm.architectures import Architecture
from hushlm.config import ModelShape, RunConfig
from hushlm.experiments.equivalent import PreparedPrice, prepared_at
from tests.faults.bad_paths import KINDS, UNREADABLE
from tests.faults.calls import ROOT, Call, Places, path_options, sound_calls
from tests.faults.trial import Outcome, attempt

__all__ = ["NOWHERE", "Case", "cases", "make_places", "run_call", "run_case"]


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Attributes:
        call: which of the sound calls.
        option: the option whose value is replaced.
        kind: which of the kinds of fault, `bad_paths.KINDS`.
        command: the call's command.
    """

    call: int
    option: str
    kind: str
    command: str

    def __str__(self) -> str:
        return f"{self.command.replace(' ', '-')}{self.call}-{self.option}-{self.kind.replace(' ', '_')}"


NOWHERE = Places(*[Path("/nowhere")] * 8)
"""For looking at calls that are not made."""


def cases() -> list[Case]:
    """All of them; which there are does not depend on where the sound things lie."""
    found = []
    for number, call in enumerate(sound_calls(NOWHERE)):
        for option in path_options(call.command):
            found += [Case(number, option, kind, call.command) for kind in KINDS]
    return found


def run_case(case: Case, places: Places) -> Outcome:
    """Make the bad path and run the command with it."""
    call = sound_calls(places)[case.call]
    with _empty(places.scratch) as scratch:
        place = scratch / "bad"
        place.mkdir()
        place.chmod(0o777)
        sound = call.sound(case.option)
        value = KINDS[case.kind](place, sound)
        as_nobody = case.kind in UNREADABLE and os.geteuid() == 0
        with _ready_means_done(places.corpus):
            return attempt(call.words(case.option, value), scratch, as_nobody=as_nobody)


def run_call(call: Call, places: Places, encoding: str = "utf-8", closed: bool = False) -> Outcome:
    """A sound call."""
    with _empty(places.scratch) as scratch, _ready_means_done(places.corpus):
        (scratch / "shelf").mkdir(mode=0o700)
        return attempt(call.words(), scratch, encoding=encoding, closed=closed)


RESULTS = ("frontier-micro.json", "fig2-micro.json", "table3-small.json")
"""What sound calls draw, and the largest, which is the one that is cut in half."""


@contextmanager
def _empty(scratch: Path) -> Iterator[Path]:
    """The scratch folder, open to everybody, with what sound calls name in it and without what the call before has left."""
    for path in scratch.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o777)
    (scratch / "api-key").write_text("a-key-of-thirty-two-characters-xyz\n")
    (scratch / "api-key").chmod(0o600)
    # Copies, because a call may write what it has read: the frontier's prices are brought up to date.
    (scratch / "results").mkdir()
    for name in RESULTS:
        shutil.copy(ROOT / "results" / name, scratch / "results")
    yield scratch


@contextmanager
def _ready_means_done(corpus: Path) -> Iterator[None]:
    """Commands that would run on for ever, or for minutes, end where their work would begin; all their checks come before."""
    from hushlm.data import open_token_store

    with (
        mock.patch("hushlm.private.server.service.PrivateServer.run", lambda self, ready: ready()),
        mock.patch("hushlm.proxy.serving.Proxy.run", lambda self, ready: ready()),
        mock.patch("hushlm.demo.pipeline.open_token_store", lambda data: open_token_store(replace(data, corpus=str(corpus)))),
        mock.patch("hushlm.demo.pipeline._train", side_effect=KeyboardInterrupt),
        # Pictures are drawn in tests of their own; here they are files that have to be written.
        mock.patch("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"a picture")),
        # Every call would price the contest's models anew, for seconds.
        mock.patch("hushlm.experiments.contest.seconds.prepared_at", _priced_once),
    ):
        yield


@cache
def _priced_once(architecture: Architecture, shape: ModelShape) -> PreparedPrice:
    return prepared_at(architecture, shape)


def make_places() -> Places:
    """Real things to name, in a new folder that everybody may enter."""
    from hushlm.data import open_token_store
    from hushlm.private.keys.certificates import create_keys
    from hushlm.private.program.export_model import export_model
    from hushlm.training import load_checkpoint, train

    root = Path(tempfile.mkdtemp(prefix="hushlm-faults-"))
    root.chmod(0o755)
    corpus = root / "corpus"
    corpus.mkdir()
    words = ["alpha", "beta", "gamma", "delta"]
    generator = np.random.default_rng(0)
    for number in range(40):
        (corpus / f"part{number:02d}.txt").write_text(" ".join(generator.choice(words, size=300)) + "\n")
    text = root / "text.txt"
    text.write_text(" ".join(words) * 200)
    values = {
        "architecture": "SM2+R",
        "shape": {"layers": 1, "heads": 1, "width": 8, "context": 32},
        "data": {"corpus": str(corpus), "validation_share": 0.1, "cache": str(root / "cache")},
        "training": {"steps": 2, "batch": 2, "evaluate_every": 2, "evaluation_batches": 1, "watch_every": 1, "threads": 1},
        "output": str(root / "checkpoint"),
    }
    config = RunConfig.from_dict(values)
    train(config, open_token_store(config.data))
    export_model(load_checkpoint(root / "checkpoint"), root / "export")
    create_keys(root / "keys", ["127.0.0.1"])
    _save_vendors_model(root / "vendor")
    questions = root / "questions.jsonl"
    questions.write_text('{"prompt": "alpha be"}\n{"prompt": "alpha ", "candidates": ["b", "g"]}\n')
    return Places(corpus, text, root / "checkpoint", root / "export", root / "keys", root / "vendor", questions, root / "scratch")


def _save_vendors_model(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    from hushlm.architectures import parse
    from hushlm.config import ModelShape
    from hushlm.data.tokenizer_choice import make_tokenizer
    from hushlm.huggingface import to_hf_gpt2
    from hushlm.model import LanguageModel

    logging.disable_progress_bar()
    to_hf_gpt2(LanguageModel(parse("SM+LN+G"), ModelShape(layers=1, heads=1, width=8, context=16))).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer("bytes", []).library).save_pretrained(folder)
