"""Text to tokens: corpora, tokenizers, the token store on disk, and the windows drawn from it."""

from hushlm.data.corpus import Corpus, Document, open_corpus
from hushlm.data.sampler import Sampler, fixed_batches
from hushlm.data.store import SPLITS, Tokens, TokenStore, open_token_store, split_of
from hushlm.data.tokenizer import make_tokenizer

__all__ = [
    "SPLITS",
    "Corpus",
    "Document",
    "Sampler",
    "TokenStore",
    "Tokens",
    "fixed_batches",
    "make_tokenizer",
    "open_corpus",
    "open_token_store",
    "split_of",
]
