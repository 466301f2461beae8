"""`hushlm cost FOLDER`: a checkpoint or an export is priced by itself, and what contradicts it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import price
from hushlm.data import open_token_store
from hushlm.plan import HUSH, ProtocolSettings, prefill_plan
from hushlm.private.program.export_model import export_model
from hushlm.training import load_checkpoint, train

SHAPE = ModelShape(layers=2, heads=2, width=16, context=32, vocabulary=256)


@pytest.fixture
def checkpoint(tiny: Callable[..., RunConfig]) -> Path:
    config = tiny("EReg(SM2+ScFuFFN)")
    train(config, open_token_store(config.data))
    return Path(config.output)


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["cost", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_checkpoint_and_its_export_are_priced_by_themselves(capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path) -> None:
    found = document(capsys, str(checkpoint))
    assert (found["architecture"], found["shape"], found["folder"]) == ("EReg(SM2+ScFuFFN)", SHAPE.to_dict(), str(checkpoint))
    assert found["total"]["bytes"] == price(prefill_plan(parse("SM2+ScFuFFN"), SHAPE, 32)).total.bytes

    # An export has its own engine settings and its own writing: here one FFN stays a product.
    rewrites = replace(HUSH, explicit_ffns=(0,))
    export_model(load_checkpoint(checkpoint), tmp_path / "export", pack_products=False, rewrites=rewrites)
    expected = price(prefill_plan(parse("SM2+ScFuFFN"), SHAPE, 32, rewrites=rewrites), ProtocolSettings(pack_products=False)).total.bytes
    for folder in (tmp_path / "export", tmp_path / "export" / "client", tmp_path / "export" / "server"):
        assert document(capsys, str(folder), "--profile", "lan")["total"]["bytes"] == expected
    assert main(["cost", str(tmp_path / "export")]) == 0
    assert f"Read from {tmp_path / 'export'}." in capsys.readouterr().out.replace("\n", " ")

    for words, complaint in (
        ([str(tmp_path / "export"), "--profile", "wan"], "was not exported with --profile wan"),
        ([str(tmp_path / "export"), "--forms", "published"], "leave out --forms published"),
        ([str(checkpoint), "--layers", "3"], "--layers 3 contradicts the model in"),
        ([str(checkpoint), "--vocab", "300"], "which has 256"),
    ):
        assert main(["cost", *words]) == 2
        assert complaint in " ".join(capsys.readouterr().err.split())
    # What agrees is no contradiction.
    assert document(capsys, str(checkpoint), "--layers", "2")["total"] == found["total"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("runs/none", "There is no folder runs/none"), ("SMX", "Unknown architecture"), ("tests", "has no manifest.json")],
)
def test_what_is_neither_a_name_nor_a_model_is_refused(capsys: pytest.CaptureFixture[str], text: str, complaint: str) -> None:
    assert main(["cost", text]) == 2
    assert complaint in capsys.readouterr().err
