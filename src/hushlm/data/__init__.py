"""Text to tokens: corpora, tokenizers, the token store on disk, and the windows drawn from it.

The names stand in `__init__.pyi` and are imported when they are first used: the private client needs the tokenizer, and not torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
