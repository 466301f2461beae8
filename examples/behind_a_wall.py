"""Run a command where nothing can connect to it: in a network namespace of its own, which has no way out but one, to one address.

    python examples/behind_a_wall.py 127.0.0.1:8440 hushlm ask - --server 127.0.0.1:8440 ...

Inside, the command finds that address at the same port of its own loopback, and no other network at all. It stands for a machine
behind address translation or a strict firewall: connections go out to that address, and none comes in. Linux alone has namespaces,
and some systems forbid them to ordinary users; then this says so and ends with exit code 2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading

UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net"]

INSIDE = """
import os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as listener:
    socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [listener.fileno()])
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Listens within the namespace, hands the listener out, and becomes the command."""


def copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def lead_out(listener: socket.socket, address: tuple[str, int]) -> None:
    """Connect whoever comes to the listener with the address."""
    while True:
        inner, _ = listener.accept()
        try:
            outer = socket.create_connection(address)
        except OSError:
            inner.close()
            continue
        for ends in ((inner, outer), (outer, inner)):
            threading.Thread(target=copy, args=ends, daemon=True).start()


def main() -> int:
    if len(sys.argv) < 3 or not sys.argv[1].rpartition(":")[2].isdigit():
        print("behind_a_wall.py needs HOST:PORT, then a command.", file=sys.stderr)
        return 2
    try:
        allowed = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if shutil.which(sys.argv[2]) is None:
        print(f"There is no command {sys.argv[2]!r} here.", file=sys.stderr)
        return 2
    if not allowed:
        print("This system lets you make no network namespace (`unshare --net`), so nothing was run.", file=sys.stderr)
        return 2
    host, _, port = sys.argv[1].rpartition(":")
    here, there = socket.socketpair()
    command = [*UNSHARE, sys.executable, "-c", INSIDE, str(there.fileno()), port, *sys.argv[2:]]
    with subprocess.Popen(command, pass_fds=[there.fileno()]) as process:
        there.close()
        _, descriptors, *_ = socket.recv_fds(here, 1, 1)
        if descriptors:
            listener = socket.socket(fileno=descriptors[0])
            threading.Thread(target=lead_out, args=(listener, (host, int(port))), daemon=True).start()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
