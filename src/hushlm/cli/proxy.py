"""`hushlm proxy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

__all__ = ["proxy"]


def proxy(
    model: list[Path] | Path | None = None,
    keys: Path | None = None,
    server: list[str] | str = "127.0.0.1:8440",
    listen: str = "127.0.0.1:8080",
    name: list[str] | str = "hush",
    chat_template: list[str] | str | None = None,
    reveal: str = "token",
    sessions: int = 1,
    waiting: int = 32,
    new_tokens: int | None = None,
    end_early: bool = False,
    keep_prepared: int = 0,
    tokens_each: int = 16,
    prompt_tokens: int | None = None,
    draft: int = 0,
    prepared: Literal["auto", "only", "never"] = "auto",
    prepared_folder: Path | None = None,
    network: str | None = None,
    expose: bool = False,
    api_key_file: Path | None = None,
    client: str = "client",
    retries: int = 3,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
) -> None:
    """Answer OpenAI's API on this machine, and ask a private server for the answers.

    Programs that speak OpenAI's chat or completions API ask privately without knowing it: give them http://LISTEN/v1 as base URL. Prompts
    and answers are in the clear between the program and this proxy, and nowhere else. Prints one line when it is ready; SIGTERM gives up
    running sessions and ends with exit code 0. A browser on this machine gets a page to ask from at http://LISTEN/.

    Several models: give --model several times, with a --name for each, and --server and --chat-template once for all or once for each.

    Args:
        model: client/ folder of `hushlm export`.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        server: HOST:PORT of `hushlm serve`.
        listen: HOST:PORT for programs; port 0 lets the system choose.
        name: the name by which programs ask for the model.
        chat_template: how a conversation becomes a prompt: a Jinja template's path, plain (a script of two speakers), or off; without it
            the model's own template, or plain if it has none.
        reveal: most that this side learns of each step: token, topk:K (sampling) or logits (sampling, logprobs); a greedy request
            without logprobs reveals tokens alone all the same.
        sessions: how many private sessions may run at a time; each is a process of its own here and at the server.
        waiting: how many sessions may wait for one of these places; further requests are refused.
        new_tokens: most tokens of an answer; without it the context is the limit.
        end_early: end a session when a stop string comes, which tells the server how long the answer was; otherwise it goes on to
            its last token, unseen.
        keep_prepared: prepare answers while nobody asks, until each model has so many; a question lets that end with the batch being made.
        tokens_each: for --keep-prepared: how many tokens an answer may have; chat requests that do not say how many they want then get as
            many, instead of 64.
        prompt_tokens: for --keep-prepared: length of the prompts, rounded up to a multiple of 32; by default up to 32.
        draft: for --keep-prepared: how many tokens each pass of an answer guesses, see `hushlm prepare`.
        prepared: auto uses prepared answers where one fits; only refuses to ask without; never leaves them alone.
        prepared_folder: where prepared answers are stored; by default prepared/CLIENT in the folder of keys.
        network: what lies between here and the server: lan, wan, or for example 30ms,50Mbps; prepared answers then take the forms that are
            quickest over it, and sessions the oblivious transfers; without it those for this machine alone if the server's address is its
            own, and else those for wan.
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
    from hushlm.cost.network import parse_network
    from hushlm.private.client.client import Client, ClientSettings
    from hushlm.private.client.retries import Retries
    from hushlm.private.program.description import DESCRIPTION_FILE, RevealPolicy
    from hushlm.proxy.application import ProxySettings
    from hushlm.proxy.chat.chat_format import chat_format
    from hushlm.proxy.models import ServedModel
    from hushlm.proxy.serving import Proxy, read_api_key

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("hushlm.proxy").setLevel(logging.INFO)
    times = ClientSettings(
        connect_seconds=connect_seconds,
        queue_seconds=queue_seconds,
        silent_seconds=silent_seconds,
        retries=Retries(retries),
        prepared=prepared,
        prepared_folder=prepared_folder,
        network=None if network is None else parse_network(network),
    )
    policy = RevealPolicy.parse(reveal)
    folders = model if isinstance(model, list) else [model]
    names = name if isinstance(name, list) else [name]
    if len(names) != len(folders):
        raise ValueError(f"proxy needs a --name for each --model: there are {len(folders)} models and {len(names)} names.")
    servers, templates = _for_each(server, folders, "--server"), _for_each(chat_template, folders, "--chat-template")
    served = []
    for folder, address, template, own_name in zip(folders, servers, templates, names, strict=True):
        asking = Client(folder, address, keys, client, times)
        chat = chat_format(folder, asking.tokenizer, template)
        served.append(ServedModel(own_name, asking, int((folder / DESCRIPTION_FILE).stat().st_mtime), chat))
    settings = ProxySettings(
        reveal=policy,
        sessions=sessions,
        waiting=waiting,
        new_tokens=new_tokens,
        end_early=end_early,
        keep_prepared=keep_prepared,
        tokens_each=tokens_each,
        prompt_tokens=prompt_tokens,
        draft=draft,
        api_key=None if api_key_file is None else read_api_key(api_key_file),
    )
    serving = Proxy(served, listen, settings, expose)
    described = " and ".join(
        f"{one.name} ({one.client.description.architecture}, program {one.client.description.fingerprint[:12]})" for one in served
    )
    where = f"the server at {servers[0]}" if len(set(servers)) == 1 else f"the servers at {' and '.join(servers)}"
    serving.run(lambda: print(f"Answering for {described} on {serving.address}, from {where}.", flush=True))


def _for_each(given: list[str] | str | None, folders: list[Path], option: str) -> list[Any]:
    """An option's values, one for each model.

    Raises:
        ValueError: if there are neither one nor as many.
    """
    values = given if isinstance(given, list) else [given] * len(folders)
    if len(values) != len(folders):
        raise ValueError(f"proxy takes {option} once, or once for each --model: there are {len(folders)} models and {len(values)} of it.")
    return values
