"""What the page is told beside the answer: the price of a question before it is asked, and how far a session is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hushlm.cost import LAN, WAN
from hushlm.plan import bucket_length
from hushlm.private.bundles import BundleStoreError
from hushlm.private.client.client import Client, Progress
from hushlm.private.client.run_session import Question
from hushlm.private.session.sent_sample import SentSample
from hushlm.report.question import describe

__all__ = ["estimate_document", "progress_document"]


def estimate_document(client: Client, questions: Sequence[Question]) -> dict[str, Any]:
    """What the questions of one request are going to move, all together, and what the server learns of them.

    Returns: `prompt_tokens` and `new_tokens` of the first question and `run_at_tokens`, the length at which its prompt is computed; then of
        all questions `bytes` and `messages` of both directions, `set_up_bytes`, and `seconds` on a local and on a wide-area network, set-up
        not included, where nothing is prepared; and `prepared_bytes`, what a single question moves instead for which an answer is
        prepared at this side, None where there is none.
    """
    found = [
        [client.estimate(len(question.prompt_tokens), question.new_tokens, question.reveal, network) for question in questions]
        for network in (LAN, WAN)
    ]
    first, context = questions[0], client.description.shape.context
    return {
        "object": "hush.estimate",
        "prompt_tokens": len(first.prompt_tokens),
        "new_tokens": first.new_tokens,
        "run_at_tokens": bucket_length(len(first.prompt_tokens), context),
        "reveal": str(first.reveal),
        "layers": client.description.shape.layers,
        "context": context,
        "bytes": sum(estimate.bytes for estimate in found[0]),
        "messages": sum(estimate.messages for estimate in found[0]),
        "prepared_bytes": _prepared_bytes(client, first) if len(questions) == 1 else None,
        "set_up_bytes": sum(estimate.set_up_bytes for estimate in found[0]),
        "seconds": {
            str(network): sum(estimate.seconds for estimate in estimates) for network, estimates in zip((LAN, WAN), found, strict=True)
        },
    }


def _prepared_bytes(client: Client, question: Question) -> int | None:
    lengths = len(question.prompt_tokens), question.new_tokens
    try:
        fitting = [] if client.settings.prepared == "never" else client.shelf.fitting(*lengths, question.greedy)
        if not fitting:
            return None
    except BundleStoreError:  # asking says what is wrong with it
        return None
    return client.estimate(*lengths, question.reveal, prepared=True, draft=fitting[0].draft).bytes


def progress_document(sample: SentSample, index: int, progress: Progress) -> dict[str, Any]:
    """A report of progress as an event of the stream: what the server knows or received as well, and nothing of the text.

    Args:
        sample: of what the session's engine sent; its bytes are given in hexadecimal, link by link.
        index: of the choice.
        progress: the report.
    """
    traffic = progress.traffic
    return {
        "object": "hush.progress",
        "index": index,
        "description": describe(progress),
        "phase": progress.phase,
        "token": progress.token,
        "tokens": progress.tokens,
        "step": progress.step,
        "steps": progress.steps,
        "layer": progress.layer,
        "layers": progress.layers,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes": traffic.received_bytes,
        "sent_messages": traffic.sent_messages,
        "received_messages": traffic.received_messages,
        "sent_sample": [sent.hex() for _, sent in sorted(sample.last().items())],
        "expected_bytes": progress.expected_bytes,
        "done_share": progress.done_share,
        "seconds": progress.seconds,
        "remaining_seconds": progress.remaining_seconds,
    }
