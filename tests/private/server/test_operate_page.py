"""docs/operate.md and examples/service say what the results and the commands say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("spu")

from hushlm.cli.main import load_command
from hushlm.cli.parsing import parse_options

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "service"


def test_the_page_s_tables_are_those_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "operate_page.py"), "--check"]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0, "run python benchmarks/operate_page.py"


def test_every_fault_ended_as_it_should() -> None:
    faults = json.loads((ROOT / "results" / "faults.json").read_text())["faults"]
    assert sum(entry["clear_error"] is True for entry in faults) >= 20
    assert {entry["phase"] for entry in faults} >= {"TLS", "handshake", "queue", "set-up", "computation"}
    assert len({(entry["fault"], entry["phase"]) for entry in faults}) == len(faults)
    for entry in faults:
        assert entry.keys() == {"fault", "phase", "clear_error", "seconds_to_error", "hang", "next_client_served"}
        assert entry["hang"] is False
        assert entry["clear_error"] is not False
        assert entry["next_client_served"] is not False


def commands() -> list[str]:
    """Every `hushlm serve` of the examples and of the page, on one line."""
    unit = (EXAMPLES / "hushlm.service").read_text().replace("\\\n", " ")
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"].values()
    page = (ROOT / "docs" / "operate.md").read_text().replace("\\\n", " ")
    found = [service["command"] for service in services if "command" in service]
    return found + re.findall(r"^(?:ExecStart=\S*/)?(hushlm serve .*)$", unit + page, re.MULTILINE)


def test_the_examples_use_options_that_exist() -> None:
    serve = load_command("serve")
    found = commands()
    assert len(found) == 4
    for command in found:
        options = parse_options("serve", serve, command.split()[2:])
        assert options["keys"] is not None
        assert options["metrics"].startswith("127.0.0.1:")
        # systemd and compose must not cut a drain short.
        assert options["drain_seconds"] == 300
    assert "TimeoutStopSec=330" in (EXAMPLES / "hushlm.service").read_text()
    assert "stop_grace_period: 330s" in (EXAMPLES / "compose.yaml").read_text()
