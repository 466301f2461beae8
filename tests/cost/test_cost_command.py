"""`hushlm cost`: one answer as table and JSON, the paper beside ours, and one sentence for a shape that cannot be."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import ModelShape
from hushlm.cost import price
from hushlm.plan import decode_plan, prefill_plan

SHAPE_OPTIONS = ["--layers", "2", "--heads", "2", "--width", "32", "--context", "16", "--vocab", "64"]
SHAPE = ModelShape(layers=2, heads=2, width=32, context=16, vocabulary=64)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["cost", *words]) == 0
    return capsys.readouterr().out


def test_the_documented_command_prints_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split("SM2+ScFuFFN --layers 12 --heads 12 --width 768 --context 128 --vocab 50257 --new-tokens 1 --json")
    document = json.loads(run(capsys, *words))
    shape = ModelShape(layers=12, heads=12, width=768, context=128, vocabulary=50_257)
    assert document["total"]["bytes"] == price(prefill_plan(parse("SM2+ScFuFFN"), shape, 128)).total.bytes
    assert document["nonlinear_operations"] == ["SM: 144 x R^128x128"]
    assert document["flops"]["paper"]["ffn"] == 12 * 2 * 128 * 768**2
    assert document["set_up"]["bytes"] > 20e6
    assert document["total"] == document["first_token"]["total"] == document["without_cache"]


def test_further_tokens_are_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "SM1+R", *SHAPE_OPTIONS, "--prompt", "10", "--new-tokens", "3", "--reveal", "topk:2", "--json"))
    assert document["new_tokens"] == 3
    first = price(prefill_plan(parse("SM1+R"), SHAPE, 10)).total.bytes
    further = sum(price(decode_plan(parse("SM1+R"), SHAPE, keys)).total.bytes for keys in (11, 12))
    assert document["total"]["bytes"] > first + further  # top 2 costs more than the token
    assert document["total"]["bytes"] < document["without_cache"]["bytes"]
    assert document["last_further_token"]["total"]["bytes"] < document["first_token"]["total"]["bytes"]


def test_what_a_session_runs_is_priced_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["SM2+R", "--layers", "2", "--heads", "2", "--width", "32", "--context", "64", "--vocab", "64", "--prompt", "4"]
    document, shape = json.loads(run(capsys, *words, "--json")), ModelShape(layers=2, heads=2, width=32, context=64, vocabulary=64)
    assert (document["prompt"], document["prompt_run_at"]) == (4, 32)
    assert document["total"]["bytes"] == price(prefill_plan(parse("SM2+R"), shape, 32)).total.bytes
    assert document["nonlinear_operations"][0] == "SM: 4 x R^32x32"
    assert "A prompt of 4 tokens is run, and priced, at 32" in run(capsys, *words)


def test_the_table_names_every_operation_and_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "SM+LN+G", *SHAPE_OPTIONS, "--network", "20,300", "--new-tokens", "2")
    for word in ("embed", "normalise", "project", "scores", "kernel", "mix", "divide", "activate", "reveal", "set-up", "20 ms, 300 Mbps"):
        assert word in text
    assert "SM+LN+G in the published forms moves" in text
    assert "Cheetah (SPU 0.9.5)" in text


def test_published_forms_can_be_priced(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (
        json.loads(run(capsys, "SM+R", *SHAPE_OPTIONS, "--forms", forms, "--json"))["total"]["bytes"] for forms in ("hush", "published")
    )
    assert ours < theirs


def test_against_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "--against", "paper", "--json"))
    assert len(document["rows"]) == 22
    for row in document["rows"]:
        assert {"architecture", "layers", "context", "ffn_gflops", "attn_gflops", "bytes_as_published_forms", "bytes", "published"} <= set(
            row
        )
        assert abs(row["ffn_gflops"] - row["published"]["ffn_gflops"]) < 0.06
        assert abs(row["attn_gflops"] - row["published"]["attn_gflops"]) < 0.06
    assert "tanh GELU" in document["note"]
    assert "25.32" in run(capsys, "--against", "paper")


@pytest.mark.slow
def test_growth(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = json.loads(run(capsys, "SM2+ScFuFFN", *SHAPE_OPTIONS, "--growth", "--output", str(tmp_path), "--json"))
    assert {path.name for path in tmp_path.iterdir()} == {"growth-sizes.png", "growth-answers.png", "growth-contexts.png"}
    assert document["by_tokens_of"]["this shape"] == document["by_tokens"]
    assert document["by_tokens_of"]["7B"][-1]["new_tokens"] == 4096 - document["prompt"]
    assert {row["size"] for row in document["by_size"]} == {"context", "layers", "heads", "width", "vocabulary"}
    assert max(row["value"] for row in document["by_size"] if row["size"] == "context") == 512
    assert {row["shape"] for row in document["shapes"]} >= {"GPT-2 small", "7B"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["SM", "--heads", "7"], "7 heads do not divide a width of 768"),
        (["SM", "--layers", "-1"], "layers = -1"),
        (["SM", "--width", "1000000000", "--heads", "1"], "width = 1000000000"),
        (["SM", "--vocab", "1"], "vocabulary = 1"),
        (["SM", "--context", "0"], "context = 0"),
        (["SM", "--layers", "1000", "--width", "100000", "--heads", "1000", "--context", "1000000"], "FLOPs"),
        (["SM", "--new-tokens", "0"], "at least one"),
        (["SM", "--prompt", "128", "--new-tokens", "2"], "context of 128"),
        (["SM", "--prompt", "0"], "0 tokens"),
        (["SM", "--network", "modem"], "network must be lan, wan"),
        (["SM", "--reveal", "everything"], "token, topk:K"),
        (["SM+X"], "Unknown architecture"),
        (["SM+ScFuFFN(6 deepest FFNs removed)", "--layers", "4"], "removes 6 FFNs"),
        ([], "needs an ARCHITECTURE"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hushlm: ")
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1
