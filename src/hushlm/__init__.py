"""Hush: language models that can be served without seeing the prompt.

The public API, flat: `from hushlm import train, load_checkpoint, price, Client`. The names stand in `__init__.pyi` and are imported
when they are first used, so `import hushlm` is instant and needs neither torch nor the two-party engine.
"""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hushlm")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _load(name)
    # Found at once the next time.
    globals()[name] = value
    return value
