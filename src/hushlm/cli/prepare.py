"""`hushlm prepare`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["prepare"]


def prepare(
    model: Path,
    server: str = "127.0.0.1:8440",
    keys: Path | None = None,
    answers: int = 1,
    tokens_each: int = 8,
    prompt_tokens: int | None = None,
    draft: int = 0,
    prepared_folder: Path | None = None,
    client: str = "client",
    retries: int = 0,
    connect_seconds: float = 30.0,
    queue_seconds: float = 3600.0,
    silent_seconds: float = 120.0,
    json: bool = False,
) -> None:
    """Compute with a server, before there is a prompt, what makes later answers fast.

    Both sides multiply random masks by the weights and keep their halves; an answer then needs a fraction of the bytes and of the time.
    Every prepared answer is used once, by `ask` and `proxy` of the same keys. Makes as many as are missing until there are --answers of
    these lengths. What is interrupted keeps all that were stored at both sides, and the same command makes the rest.

    Args:
        model: client/ folder of `hushlm export`.
        server: HOST:PORT of `hushlm serve`, written as `ask` will have it; the server must be started with --prepare-folder.
        keys: folder with authority.pem, client.pem and client.key, from `hushlm keys create`.
        answers: how many prepared answers of these lengths there shall be, those that exist included.
        tokens_each: how many tokens an answer may have; a shorter answer leaves the rest unused.
        prompt_tokens: length of the prompts, rounded up to a multiple of 32; good for all prompts that are rounded up to the same. By
            default up to 32, as the context allows.
        draft: guess so many tokens in each pass after the first, from what followed the same words before, and check them together: fewer
            passes where guesses are right, and as much material more. Greedy answers only; the server learns how many were right.
        prepared_folder: where they are stored, readable by you alone; by default prepared/CLIENT in the folder of keys.
        client: name of the .pem and .key in the folder of keys.
        retries: how often to ask again where no server is found, or one without a place.
        connect_seconds: how long the server may take to connect.
        queue_seconds: how long to wait in the server's queue; questions go first.
        silent_seconds: how long the server's engine may be silent before the session is given up.
        json: print one JSON document.
    """
    from hushlm.cli.interrupts import one_interrupt
    from hushlm.extras import require_engine
    from hushlm.report.preparation import PreparationDisplay, describe_report
    from hushlm.report.table import print_json

    if keys is None:
        raise ValueError("prepare needs --keys: the folder that `hushlm keys create` wrote.")
    require_engine()
    from hushlm.files import check_writable
    from hushlm.plan import bucket_length
    from hushlm.private.client.client import Client, ClientSettings
    from hushlm.private.client.preparing import usual_prompt_tokens
    from hushlm.private.client.retries import Retries

    settings = ClientSettings(
        connect_seconds=connect_seconds,
        queue_seconds=queue_seconds,
        silent_seconds=silent_seconds,
        retries=Retries(retries),
        prepared_folder=prepared_folder,
    )
    asking = Client(model, server, keys, client, settings)
    check_writable(asking.shelf.folder)
    context = asking.description.shape.context
    prompt_tokens = usual_prompt_tokens(context, tokens_each, draft) if prompt_tokens is None else prompt_tokens
    with one_interrupt(), PreparationDisplay() as display:
        report = asking.prepare(answers, tokens_each, prompt_tokens, display.update, draft)
    if json:
        print_json(report.to_dict())
    else:
        print(describe_report(report, bucket_length(prompt_tokens, context), tokens_each))
