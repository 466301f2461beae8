"""Files that are whole or absent: atomic writes, manifests, and folders replaced in one step."""

from hushlm.files.atomic import expand_user, read_json, write_atomic
from hushlm.files.folders import check_replaceable, current_folder, folder_candidates, new_folder
from hushlm.files.manifest import MANIFEST, is_hugging_face_folder, verify_manifest, write_manifest
from hushlm.files.writing import check_writable, one_writer, what_to_do

__all__ = [
    "MANIFEST",
    "check_replaceable",
    "check_writable",
    "current_folder",
    "expand_user",
    "folder_candidates",
    "is_hugging_face_folder",
    "new_folder",
    "one_writer",
    "read_json",
    "verify_manifest",
    "what_to_do",
    "write_atomic",
    "write_manifest",
]
