from tests.private.fixtures import export_folder, faults_seen, key_folder, scratch, served_checkpoint

__all__ = ["export_folder", "faults_seen", "key_folder", "scratch", "served_checkpoint"]
