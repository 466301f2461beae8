"""Private inference between two parties: `export_model` makes a program, `PrivateServer` serves it, `Client` asks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
