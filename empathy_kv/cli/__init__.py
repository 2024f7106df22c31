"""The command `empathy-kv`: look at a store, move what is in it. The only room that talks to people."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Its exit status is 0, 1 for what failed, 2 for what was asked wrongly."""
    try:
        from empathy_kv.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print("empathy-kv: the command line is not installed: pip install 'empathy-kv[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())
