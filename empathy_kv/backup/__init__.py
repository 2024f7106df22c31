"""Backups of whole stores: to a directory, Amazon S3, Azure Blob Storage, Google Cloud Storage. The names to import.

`Backups` has the verbs. Below it: `archive` (what is written in which order, so that no half backup is ever listed),
`manifest` and `parts` (the form), `target`, `urls`, `directory` and `service` (where they are kept), `retention` (for
how long), `schedule`. What a backup holds is `empathy_kv.snapshot`'s to say: here it is lines.
"""

from empathy_kv.backup.backups import Backups, Pruned
from empathy_kv.backup.manifest import Backup, Part
from empathy_kv.backup.retention import Keep

__all__ = ["Backup", "Backups", "Keep", "Part", "Pruned"]
