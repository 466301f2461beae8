"""`hushlm proxy`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["proxy"]


def proxy(
    model: Path | None = None,
    keys: Path | None = None,
    server: str = "127.0.0.1:8440",
    listen: str = "127.0.0.1:8080",
    name: str = "hush",
    reveal: str = "token",
    sessions: int = 1,
    waiting: int = 32,
    new_tokens: int | None = None,
    end_early: bool = False,
    expose: bool = False,
    api_key_file: Path | None = None,
    client: str = "client",
    retries: int = 3,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
) -> None:
    """Answer OpenAI's API on this machine, and ask a private server for the answers.

    Programs that speak OpenAI's completions API ask privately without knowing it: give them http://LISTEN/v1 as base URL. Prompts and
    answers are in the clear between the program and this proxy, and nowhere else. Prints one line when it is ready; SIGTERM gives up
    running sessions and ends with exit code 0.

    Args:
        model: client/ folder of `hushlm export`.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        server: HOST:PORT of `hushlm serve`.
        listen: HOST:PORT for programs; port 0 lets the system choose.
        name: the name by which programs ask for the model.
        reveal: most that this side learns of each step: token, topk:K (sampling) or logits (sampling, logprobs); a greedy request
            without logprobs reveals tokens alone all the same.
        sessions: how many private sessions may run at a time; each is a process of its own here and at the server.
        waiting: how many sessions may wait for one of these places; further requests are refused.
        new_tokens: most tokens of an answer; without it the context is the limit.
        end_early: end a session when a stop string comes, which tells the server how long the answer was; otherwise it goes on to
            its last token, unseen.
        expose: allow an address that other machines can reach; traffic there is plain HTTP.
        api_key_file: file with a key that programs must send, readable by you alone; optional on this machine.
        client: name of the .pem and .key in the folder of keys.
        retries: how often to ask again where no server is found, or one without a place; a session that broke is never repeated.
        connect_seconds: how long the server may take to connect.
        queue_seconds: how long to wait in the server's queue.
        silent_seconds: how long the server's engine may be silent before the session is given up.
    """
    import logging
    import sys

    if model is None:
        raise ValueError("proxy needs --model: the client/ folder of an export.")
    if keys is None:
        raise ValueError("proxy needs --keys: the folder that `hushlm keys create` wrote.")
    from hushlm.extras import require_engine

    require_engine()
    from hushlm.private.client.client import Client, ClientSettings
    from hushlm.private.client.retries import Retries
    from hushlm.private.program.description import DESCRIPTION_FILE, RevealPolicy
    from hushlm.proxy.application import ProxySettings
    from hushlm.proxy.serving import Proxy, read_api_key

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("hushlm.proxy").setLevel(logging.INFO)
    times = ClientSettings(
        connect_seconds=connect_seconds,
        queue_seconds=queue_seconds,
        silent_seconds=silent_seconds,
        retries=Retries(retries),
    )
    policy = RevealPolicy.parse(reveal)
    asking = Client(model, server, keys, client, times)
    settings = ProxySettings(
        model=name,
        created=int((model / DESCRIPTION_FILE).stat().st_mtime),
        reveal=policy,
        sessions=sessions,
        waiting=waiting,
        new_tokens=new_tokens,
        end_early=end_early,
        api_key=None if api_key_file is None else read_api_key(api_key_file),
    )
    serving = Proxy(asking, listen, settings, expose)
    described = f"{asking.description.architecture}, program {asking.description.fingerprint[:12]}"
    serving.run(lambda: print(f"Answering for {name} ({described}) on {serving.address}, from the server at {server}.", flush=True))
