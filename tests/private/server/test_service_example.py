"""The balancer of `examples/service`, as it is written: two servers behind HAProxy, in a network namespace that has their addresses.

The namespace is left to this file itself, run as a module: it starts everything, asks, takes a server away, and prints what it saw.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "examples" / "service" / "haproxy.cfg"
BALANCER = "192.0.2.10"
SERVERS = {"a": ("192.0.2.11", 9441), "b": ("192.0.2.12", 9442)}
CHECKED_SECONDS = 30
"""Three checks of two seconds each, on a busy machine."""


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(240)
def test_the_example_brings_a_session_to_one_server_and_the_next_to_one_that_lives(
    export_folder: Path, served_checkpoint: Any, tmp_path: Path
) -> None:
    pytest.importorskip("spu")
    if shutil.which("haproxy") is None:
        pytest.skip("there is no HAProxy on this machine: install the system's package `haproxy`")
    if subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine lets no test make a network namespace")
    from tests.private.service import PROMPTS

    from hushlm.private.keys.certificates import create_keys

    create_keys(tmp_path / "keys", [BALANCER])
    command = ["unshare", "--net", sys.executable, "-m", "tests.private.server.test_service_example"]
    arguments = [str(export_folder), str(tmp_path / "keys"), str(tmp_path), PROMPTS[0]]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    prompt = served_checkpoint.tokenizer.encode(PROMPTS[0]).ids
    assert seen["tokens"] == served_checkpoint.model.greedy(prompt, 1)
    assert sorted(seen["sessions"].values()) == [0, 1], "three connections, and all of them at one server"
    assert seen["healthy_after_a_server_is_gone"]


def main(export: Path, keys: Path, folder: Path, prompt: str) -> None:
    """Within the namespace."""
    from tests.private.service import HUSHLM, serving, wait_for

    from hushlm.private.keys.certificates import CLIENT, client_context, load_keys

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (BALANCER, *(address for address, _ in SERVERS.values())):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    context = client_context(load_keys(keys, CLIENT))

    def healthy() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"https://{BALANCER}:8440/health", context=context, timeout=5) as answer:
            return answer.status == 200
        return False

    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                serving(export, keys, folder / f"{name}.log", "--listen", f"{address}:8440", "--metrics", f"127.0.0.1:{metrics}")
            )
            for name, (address, metrics) in SERVERS.items()
        }
        balancer = stack.enter_context(subprocess.Popen(["haproxy", "-db", "-f", str(CONFIGURATION)], stdout=sys.stderr))
        stack.callback(balancer.kill)
        wait_for(healthy, CHECKED_SECONDS, "the balancer")
        ask = [*HUSHLM, "ask", prompt, "--model", str(export / "client"), "--keys", str(keys), "--server", f"{BALANCER}:8440"]
        asked = subprocess.run([*ask, "--new-tokens", "1", "--json"], stdout=subprocess.PIPE, text=True, check=True)
        sessions = {name: server.log.read_text().count('"session ended"') for name, server in servers.items()}
        used = max(sessions, key=lambda name: sessions[name])
        servers[used].process.kill()
        deadline = time.monotonic() + CHECKED_SECONDS
        while not (again := healthy()) and time.monotonic() < deadline:
            time.sleep(0.2)
        print(json.dumps({"tokens": json.loads(asked.stdout)["tokens"], "sessions": sessions, "healthy_after_a_server_is_gone": again}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
