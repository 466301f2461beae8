from tests.private.fixtures import export_folder, key_folder, scratch, served_checkpoint

__all__ = ["export_folder", "key_folder", "scratch", "served_checkpoint"]
