"""Programs of the system that a test needs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find_tool(name: str) -> str | None:
    """Return the path of a program: from PATH, from beside this Python, or from where administrators have theirs."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), beside, "/usr/sbin", "/sbin"]))
