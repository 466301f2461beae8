from tests.extras import need_engine

need_engine()

from tests.private.fixtures import export_folder, key_folder, scratch, served_checkpoint  # noqa: E402

__all__ = ["export_folder", "key_folder", "scratch", "served_checkpoint"]
