"""`hushlm demo --quick`: every stage, its processes included."""

from __future__ import annotations

import html
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hushlm.config import ModelShape
from hushlm.demo.demo_settings import ROWS
from hushlm.files import verify_manifest
from hushlm.training import load_checkpoint

DOCUMENTED = Path(__file__).parents[2] / "docs" / "demo.md"


@pytest.mark.slow
@pytest.mark.two_party
def test_the_demo_goes_all_the_way(tmp_path: Path) -> None:
    pytest.importorskip("spu", reason="the two-party engine is not installed")
    command = [sys.executable, "-m", "hushlm", "demo", "--quick", "--seed", "1", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "runs/demo/summary.json").read_text())
    assert summary["seed"] == 1
    assert summary["wall_seconds"] > 0
    assert [row["name"] for row in summary["architectures"]] == list(ROWS)
    shape = ModelShape(**summary["shape"])
    for row in summary["architectures"]:
        assert 1 < row["validation_perplexity"] < shape.vocabulary
        assert math.isclose(sum(row["head_share"]), 1)
        assert row["predicted_bytes"] > 0
        assert load_checkpoint(tmp_path / row["checkpoint"]).config.architecture == row["name"]
    assert summary["collapse"]["stopped_at_step"] > 1
    assert 11 in summary["collapse"]["layers"]

    private = summary["private"]
    assert private["tokens_equal_plaintext"] is True
    assert private["tokens"] == private["plaintext_tokens"]
    assert len(private["tokens"]) == 2
    checkpoint = next(row["checkpoint"] for row in summary["architectures"] if row["name"] == private["architecture"])
    model = load_checkpoint(tmp_path / checkpoint)
    prompt = model.tokenizer.encode(private["prompt_text"]).ids
    assert len(prompt) == private["prompt_tokens"]
    assert model.model.greedy(prompt, 2) == private["tokens"]
    assert private["text"] == model.tokenizer.decode(private["tokens"])
    assert min(private["bytes_client_to_server"], private["bytes_server_to_client"], private["messages"]) > 1000
    counted = private["bytes_client_to_server"] + private["bytes_server_to_client"]
    assert private["predicted_bytes"] == pytest.approx(counted, rel=0.1)

    folder = tmp_path / "runs/demo/private"
    for party in ("server", "client"):
        verify_manifest(folder / party)
        assert sorted(path.name for path in (folder / f"{party}-keys").iterdir()) == ["authority.pem", f"{party}.key", f"{party}.pem"]
    assert not list((folder / "client").glob("*.safetensors"))
    table = (tmp_path / "runs/demo/table.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [f"| {name}" for name in ROWS]
    for figure in summary["figures"]:
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "runs/demo/report.html").read_text()
    for name in ROWS:
        assert f">{html.escape(name)}</td>" in page
    assert "diverged" in page
    for stage in range(1, 6):
        assert f"[{stage}/5" in done.stderr
    assert "hushlm entropy" in done.stderr

    text = DOCUMENTED.read_text()
    for key in (*summary, *summary["architectures"][0], *private, *summary["collapse"], *summary["corpus"], *summary["shape"]):
        assert f"`{key}`" in text, f"docs/demo.md does not describe {key}"


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_stopped_takes_its_processes_along(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    pytest.importorskip("spu", reason="the two-party engine is not installed")
    command = [sys.executable, "-m", "hushlm", "demo", "--quick", "--steps", "1000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("[2/5"):
        assert process.poll() is None
    time.sleep(3)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        # The demo led a process group of its own: nobody is left in it.
        os.killpg(process.pid, 0)
