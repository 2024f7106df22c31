"""The engine on a directory of JSON files: no server, many processes."""

from empathy_kv.kv.files.engine import FilesKV

__all__ = ["FilesKV"]
