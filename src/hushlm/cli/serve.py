"""`hushlm serve`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["serve"]


def serve(
    model: Path,
    keys: Path | None = None,
    listen: str = "127.0.0.1:8440",
    metrics: str | None = None,
    workers: int = 1,
    queue: int = 8,
    new_tokens: int | None = None,
    allow_reveal: str = "token",
    client_sessions: int | None = None,
    client_tokens: int | None = None,
    client_window_seconds: float = 3600.0,
    prepare_folder: Path | None = None,
    prepare_client_answers: int = 16,
    prepare_client_bytes: int = 4_000_000_000,
    prepare_answers: int = 256,
    prepare_bytes: int = 32_000_000_000,
    prepare_sessions: int = 1,
    engine_threads: int | None = None,
    once: bool = False,
    with_stdin: bool = False,
    connect_seconds: float = 30.0,
    silent_seconds: float = 120.0,
    session_seconds: float = 86400.0,
    drain_seconds: float = 60.0,
    verbose: bool = False,
) -> None:
    """Answer private questions: this machine has the weights, and sees no prompt and no answer.

    Prints one line when it is ready. Each session runs in a process of its own, for a client whose certificate comes from the same
    authority; a client that finds none free waits in a queue. SIGTERM lets running sessions finish and then ends with exit code 0. The
    log, on standard error, is one JSON document a line, and holds names of clients, times, sizes and outcomes only.

    Args:
        model: server/ folder of `hushlm export`.
        keys: folder with authority.pem, server.pem and server.key, from `hushlm keys create`.
        listen: HOST:PORT, an IPv6 address in brackets; port 0 lets the system choose. Engines use further ports of the same address,
            chosen per session.
        metrics: HOST:PORT for GET /metrics (Prometheus), /health and /ready over plain HTTP, for example 127.0.0.1:9440; off by default.
        workers: how many sessions may run at a time; each needs memory for the weights and the engine.
        queue: how many sessions may wait for a worker; further ones are refused.
        new_tokens: most tokens a session may ask for; without it the context is the limit.
        allow_reveal: most that a client may learn of each step: token, topk:K or logits; each later one tells more about the weights.
        client_sessions: sessions that one client may have at a time, waiting ones included; no limit by default.
        client_tokens: tokens that one client may have generated in any --client-window-seconds; no limit by default.
        client_window_seconds: the time over which --client-tokens counts.
        prepare_folder: folder where prepared answers are kept, readable by you alone; without it none are prepared (`hushlm prepare`).
        prepare_client_answers: most prepared answers that are kept for one client.
        prepare_client_bytes: most bytes of them for one client, on this side's disk.
        prepare_answers: most prepared answers for all clients.
        prepare_bytes: most bytes of them for all clients.
        prepare_sessions: preparations at a time; each takes a worker, and makes way for questions between two batches.
        engine_threads: threads of each session's engine, here and at the client, 1 to 64. By default a preparation takes all processors of
            this machine, at most 16, and a question two, because each makes stocks of oblivious transfers (3 MB) before it helps.
        once: stop after the first session.
        with_stdin: stop, as after SIGTERM, when standard input ends: for a program that starts a server on a pipe of its own, and may
            be killed.
        connect_seconds: how long a client's engine may take to connect.
        silent_seconds: how long a client's engine may be silent before the session is given up.
        session_seconds: how long a session may take.
        drain_seconds: how long sessions may go on after SIGTERM.
        verbose: log the end of a failed worker's own log too.
    """
    import sys

    if keys is None:
        raise ValueError("serve needs --keys: the folder that `hushlm keys create` wrote.")
    from hushlm.extras import require_engine

    require_engine()
    from hushlm.private.program.description import RevealPolicy
    from hushlm.private.server.admission import ClientLimits
    from hushlm.private.server.logs import start_log
    from hushlm.private.server.prepared_shelf import PrepareSettings
    from hushlm.private.server.service import PrivateServer, ServerSettings

    start_log(sys.stderr, verbose)
    settings = ServerSettings(
        workers=workers,
        queue=queue,
        new_tokens=new_tokens,
        reveal=RevealPolicy.parse(allow_reveal),
        client=ClientLimits(client_sessions, client_tokens, client_window_seconds),
        connect_seconds=connect_seconds,
        silent_seconds=silent_seconds,
        session_seconds=session_seconds,
        drain_seconds=drain_seconds,
        once=once,
        prepare=PrepareSettings(
            prepare_folder, prepare_client_answers, prepare_client_bytes, prepare_answers, prepare_bytes, prepare_sessions
        ),
        engine_threads=engine_threads,
    )
    if with_stdin:
        _stop_with_stdin()
    server = PrivateServer(model, listen, keys, settings, metrics)
    described = f"{server.description.architecture}, program {server.description.fingerprint[:12]}"
    server.run(
        lambda: print(f"Serving {described}, on {server.address}, up to {workers} session{'s' * (workers > 1)} at a time.", flush=True)
    )


def _stop_with_stdin() -> None:
    """Stop when standard input ends: the kernel closes the pipe of a program that dies, however it dies."""
    import os
    import signal
    import sys
    import threading

    def watch() -> None:
        while sys.stdin.buffer.read(1 << 16):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="hushlm-stdin", daemon=True).start()
