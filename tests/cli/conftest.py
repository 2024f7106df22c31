"""The command line, called as a shell calls it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from calling import Command, Done

from empathy_kv import Store, connect
from empathy_kv.cli.app import run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store, and the command line with its URL in the environment."""
    url = f"file:{tmp_path}/store"
    monkeypatch.setenv("EMPATHY_KV_URL", url)
    monkeypatch.chdir(tmp_path)
    with connect(url) as opened:
        yield opened


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command. `stdin` is what it reads; `answer` is what a person types on a terminal."""

    def call(*arguments: str, stdin: bytes = b"", answer: str | None = None) -> Done:
        stream = io.TextIOWrapper(io.BytesIO(stdin if answer is None else answer.encode()))
        monkeypatch.setattr(stream, "isatty", lambda: answer is not None, raising=False)
        monkeypatch.setattr("sys.stdin", stream)
        status = run(arguments)
        told = capsys.readouterr()
        return Done(status, told.out, told.err)

    return call
