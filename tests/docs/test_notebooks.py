"""The notebooks in `examples/notebooks` run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
EXPECTED = {
    "ask_privately": ("the client gets: ['", "MB for three tokens", "\nTrue\n", '"outcome": "finished"'),
    "look_into_a_model": ("perplexity on held-out files", "shares by quarter", "SM+ScFuFFN   perplexity"),
}
"""What a notebook must have printed."""


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(EXPECTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs"), "clear the outputs before you commit (jupyter nbconvert --clear-output --inplace)"
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed, which belongs to the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed, which belongs to the extra dev")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "\n".join(
        output["text"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if output.output_type == "stream"
    )
    for words in EXPECTED[path.stem]:
        assert words in f"\n{printed}\n", printed
    drawn = sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    assert drawn == {"ask_privately": 0, "look_into_a_model": 2}[path.stem]
