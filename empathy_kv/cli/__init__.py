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
        told = "pip install cyclopts rich brings it, as the extra cli does"
        print(f"empathy-kv: what the command line needs is not installed here; {told}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())
