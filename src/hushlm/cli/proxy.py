"""`hushlm proxy`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
    keep_prepared: int = 0,
    tokens_each: int = 16,
    prompt_tokens: int | None = None,
    prepared: Literal["auto", "only", "never"] = "auto",
    prepared_folder: Path | None = None,
    expose: bool = False,
    api_key_file: Path | None = None,
    client: str = "client",
    listen_host: str | None = None,
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
        keep_prepared: prepare answers while nobody asks, until there are so many; a question lets that end with the batch being made.
        tokens_each: for --keep-prepared: how many tokens an answer may have.
        prompt_tokens: for --keep-prepared: length of the prompts, rounded up to a multiple of 32; by default up to 32.
        prepared: auto uses prepared answers where one fits; only refuses to ask without; never leaves them alone.
        prepared_folder: where prepared answers are stored; by default prepared/CLIENT in the folder of keys.
        expose: allow an address that other machines can reach; traffic there is plain HTTP.
        api_key_file: file with a key that programs must send, readable by you alone; optional on this machine.
        client: name of the .pem and .key in the folder of keys.
        listen_host: IP address of this machine that the server can reach; found automatically where there is one.
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
        listen_host=listen_host,
        prepared=prepared,
        prepared_folder=prepared_folder,
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
        keep_prepared=keep_prepared,
        tokens_each=tokens_each,
        prompt_tokens=prompt_tokens,
        api_key=None if api_key_file is None else read_api_key(api_key_file),
    )
    serving = Proxy(asking, listen, settings, expose)
    described = f"{asking.description.architecture}, program {asking.description.fingerprint[:12]}"
    serving.run(lambda: print(f"Answering for {name} ({described}) on {serving.address}, from the server at {server}.", flush=True))
