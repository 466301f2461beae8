"""Token ids of a rendered conversation in which only the template can write control tokens, never a message.

The library finds special tokens anywhere in a text, so a message that holds "<|im_start|>system" would begin a turn of its own. A copy
of the tokenizer is therefore used in which every such token has another spelling, with U+FDD0 in front, and:

1. `guard` writes U+FDD1 in front of each special token's text in a message, before the template sees it;
2. `encode` respells the special tokens of the rendered text that have no U+FDD1 in front, which are the template's, removes every
   U+FDD1, and encodes the whole at once with the copy: what a message said is plain text there, and has the tokens of plain text.

Both characters are among those that Unicode keeps for a program's own use; messages that hold them are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken

from hushlm.data.tokenizer import Tokenizer

__all__ = ["GuardedEncoder"]

_MARK, _GUARD = "\ufdd0", "\ufdd1"


class GuardedEncoder:
    """Encodes rendered conversations.

    Args:
        tokenizer: the model's.
        named: further special tokens, by their text: those that the tokenizer's files name.
        end_ids: numbers of tokens that end an answer, which a message cannot contain either.
    """

    def __init__(self, tokenizer: Tokenizer, named: Iterable[str], end_ids: Iterable[int]) -> None:
        described = json.loads(tokenizer.to_str())
        # Added tokens of white space alone shorten indented text, and control nothing.
        added = {entry["content"]: entry for entry in described["added_tokens"] if entry["content"].strip()}
        special = {text for text, entry in added.items() if entry["special"]}
        special |= {text for text in named if text and tokenizer.token_to_id(text) is not None}
        every = special | added.keys()
        self._ids = {text: number for text in every if (number := tokenizer.token_to_id(text)) is not None}
        self._special = _alternatives(special)
        self._every = _alternatives(every)
        self._control = {self._ids[text]: text for text in special} | {number: tokenizer.id_to_token(number) for number in end_ids}
        self._encoder, self._numbers = self._respelled(tokenizer, described, added)

    def guard(self, text: str, is_assistant: bool = False) -> str:
        """A message's text, so marked that nothing in it can become a control token.

        Args:
            text: the message's.
            is_assistant: whether it is an earlier answer. In these, templates look for added tokens that are not special (the ends of
                a thought, for one) and leave parts out by them, so these alone keep their meaning.

        Raises:
            ValueError: one sentence, if it holds one of the two characters that are used here.
        """
        if _MARK in text or _GUARD in text:
            raise ValueError("A message holds U+FDD0 or U+FDD1, which are no characters of any text: leave them out.")
        tokens = self._special if is_assistant else self._every
        return re.sub(f"(?={tokens})", _GUARD, text) if tokens else text

    def encode(self, rendered: str, most: int) -> tuple[list[int], bool]:
        """The token ids of what a template made of guarded messages.

        Args:
            rendered: the text.
            most: how many tokens are of use.

        Returns: as `Tokenizer.encode_end` does: the token ids, or more than `most` of its end; and whether these are all.

        Raises:
            ValueError: one sentence, if the text cannot be encoded, or if plain text in it becomes a control token by itself.
        """
        if self._every:
            rendered = re.sub(f"(?<!{_GUARD}){self._every}", lambda found: _MARK + found[0], rendered)
        ids, whole = self._encoder.encode_end(rendered.replace(_GUARD, ""), most)
        if not whole and len(ids) > most:
            return ids, whole
        found = []
        for number in ids:
            if number not in self._numbers and number in self._control:
                raise ValueError(f"A message's text becomes the model's control token {self._control[number]!r}: leave that text out.")
            found.append(self._numbers.get(number, number))
        return found, whole

    def control_token(self, rendered: str) -> int | None:
        """The control token with which a rendered text begins; None if it begins with other text."""
        found = re.match(self._special, rendered) if self._special else None
        return None if found is None else self._ids[found[0]]

    def _respelled(self, tokenizer: Tokenizer, described: dict, added: dict) -> tuple[Tokenizer, dict[int, int]]:
        """The copy of the tokenizer; and what its added tokens' numbers are in the original, for they are numbered anew."""
        kept = [entry for entry in described["added_tokens"] if entry["content"] not in self._ids]
        copy = tokenizers.Tokenizer.from_str(json.dumps({**described, "added_tokens": kept, "post_processor": None}))
        # New tokens are numbered from the vocabulary's size on, which in one with gaps are numbers of other tokens.
        gaps = max(copy.get_vocab(with_added_tokens=False).values(), default=-1) + 1 - copy.get_vocab_size(with_added_tokens=False)
        copy.add_special_tokens([AddedToken(_MARK * 2 + str(gap), normalized=False) for gap in range(gaps)])
        sides = ("single_word", "lstrip", "rstrip")
        copy.add_special_tokens(
            [
                AddedToken(_MARK + text, normalized=False, special=True, **{side: added.get(text, {}).get(side, False) for side in sides})
                for text in sorted(self._ids)
            ]
        )
        numbers = {}
        for number, token in copy.get_added_tokens_decoder().items():
            original = tokenizer.token_to_id(token.content.removeprefix(_MARK))
            numbers[number] = number if original is None else original
        return Tokenizer(copy), numbers


def _alternatives(texts: Iterable[str]) -> str:
    """A regular expression for any of the texts, the longest first; empty for none."""
    found = "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))
    return f"(?:{found})" if found else ""
