"""Progress without a terminal: lines on standard error, nothing on standard output."""

from __future__ import annotations

import pytest

from hushlm.report import run_progress
from hushlm.report.run_progress import RunsProgress


def test_lines_tell_step_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now)
    with RunsProgress({"SM": 100, "SM+LN": 100}, bars=False) as shown:
        shown.start("SM")
        for step in range(1, 11):
            now = step * 2.0
            shown.update("SM", step, f"loss {step}")
        shown.end("SM", "stopped before update 11")
        now = 40.0
        shown.start("SM+LN")
        now = 60.0
        shown.update("SM+LN", 40, "loss 1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        # 8 steps in 16 s leave 92 steps, 3:04; of all 200 steps 192 are left, 6:24.
        "SM: 8/100, loss 8, 0.5 steps/s, 3:04 left (all runs: 6:24)",
        "SM: stopped before update 11",
        # The stopped run counts with its 10 steps: 60 of 110 left after 50 in 60 s.
        "SM+LN: 40/100, loss 1, 2.0 steps/s, 0:30 left (all runs: 1:12)",
    ]


def test_bars_are_drawn_for_runs_in_parallel(capsys: pytest.CaptureFixture[str]) -> None:
    with RunsProgress({"SM": 10, "EReg(SM(t)+ScFuFFN)": 10}, bars=True) as shown:
        for step in range(1, 11):
            shown.update("SM", step, "loss 1")
            shown.update("EReg(SM(t)+ScFuFFN)", step, "loss 1")
        shown.end("SM", "perplexity 6.00")
    assert capsys.readouterr().out == ""
