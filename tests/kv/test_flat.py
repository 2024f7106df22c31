"""What is true of a flat directory of files alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from empathy_kv.errors import ArgumentError, CheckError, DamagedError, TokenError
from empathy_kv.kv.files.flat import FlatDirectory
from empathy_kv.kv.operations import TOKEN_AHEAD, TOKEN_LIFE, Batch, Check, Delete, Exists, Get, Set, Settle, Token
from empathy_kv.testing.conformance.suite import Writer

NAME = ("states",)
VALUE = b'{"user_id":"u"}'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "made" / "flat"


@pytest.fixture
def flat(directory: Path) -> Iterator[FlatDirectory]:
    with FlatDirectory(directory, NAME) as flat:
        yield flat


@pytest.fixture
def writer() -> Writer:
    return Writer(NAME)


# Nothing is made by a call that is refused, or has nothing to do


def test_a_refused_write_makes_no_directory(flat: FlatDirectory, directory: Path, writer: Writer) -> None:
    old = writer.token(age=TOKEN_LIFE / 1000 + 1)
    void = writer.token()
    assert flat.settle(void) is False
    for batch in (
        Batch(NAME, [Set("u", VALUE)], [Check("u", 3)]),
        Batch(NAME, [Set("u", VALUE)], [Check("u", 0), Check("v")]),
        Batch(NAME, [Delete("u")], [Check("u")]),
    ):
        with pytest.raises(CheckError):
            flat.commit(batch)
    for batch in (
        Batch(NAME, [Set("u", VALUE)], (), old),
        Batch(NAME, [Set("u", VALUE)], (), void),
        Batch(NAME, [Settle(old)]),
    ):
        with pytest.raises(TokenError):
            flat.commit(batch)
    for batch in (
        Batch(NAME, [Set("u", VALUE, 60)]),
        Batch(NAME, [Set("u", VALUE), Set("v", VALUE)]),
        Batch(NAME, [Set("u", VALUE)], [Check("u", 0, b"member")]),
        Batch(("other",), [Set("u", VALUE)]),
    ):
        with pytest.raises(ArgumentError):
            flat.commit(batch)
    assert flat.commit(Batch(NAME, [Delete("u")])) == [False]
    assert flat.commit(Batch(NAME, [Get("u"), Exists("u")])) == [None, False]
    assert list(flat.keys(NAME)) == []
    assert not directory.parent.exists()


def test_a_write_whose_check_holds_makes_the_directory(flat: FlatDirectory, directory: Path) -> None:
    flat.commit(Batch(NAME, [Set("u", VALUE)], [Check("u", 0)]))
    assert (directory / "u.json").read_bytes() == VALUE


# Tokens, for as long as it is open


def test_a_repeated_token_applies_once(flat: FlatDirectory, writer: Writer) -> None:
    token = writer.token()
    first = flat.execute(Batch(NAME, [Set("u", VALUE)], (), token))
    kept = list(first)
    first.clear()
    flat.commit(Batch(NAME, [Delete("u")]))
    assert flat.execute(Batch(NAME, [Set("u", VALUE)], (), token)) == kept
    assert list(flat.keys(NAME)) == []
    with pytest.raises(TokenError):
        flat.execute(Batch(NAME, [Set("u", b"{}")], (), token))
    assert flat.settle(token) is True


def test_a_deletion_before_there_is_a_directory_is_remembered_too(flat: FlatDirectory, writer: Writer) -> None:
    token = writer.token()
    assert flat.execute(Batch(NAME, [Delete("u")], (), token)) == [False]
    flat.commit(Batch(NAME, [Set("u", VALUE)]))
    assert flat.execute(Batch(NAME, [Delete("u")], (), token)) == [False]
    assert flat.execute(Batch(NAME, [Get("u")])) == [VALUE]


def test_tokens_are_refused_as_by_the_other_engines(flat: FlatDirectory, writer: Writer) -> None:
    session, now = secrets.token_hex(8), time.time_ns() // 1_000_000
    flat.execute(Batch(NAME, [Set("u", VALUE)], (), Token(NAME, session, 0, 5, now)))
    void = Token(NAME, session, 1, 5, now)
    assert flat.settle(void) is False
    assert flat.settle(void) is False
    for token in (
        Token(NAME, session, 0, 4, now),
        void,
        Token(NAME, session, 2, 5, now - TOKEN_LIFE - 1000),
        Token(NAME, session, 2, 5, now + TOKEN_AHEAD + 60_000),
    ):
        with pytest.raises(TokenError):
            flat.execute(Batch(NAME, [Set("u", b"{}")], (), token))
        if token is not void:
            with pytest.raises(TokenError):
                flat.settle(token)
    assert flat.execute(Batch(NAME, [Get("u")])) == [VALUE]


# What is no regular file


def _pipe(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(path)


def _socket(path: Path) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("there are no local sockets here")
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # A whole path may have a hundred bytes.


def _link(path: Path) -> None:
    _dangling(path)
    path.readlink().write_bytes(VALUE)


def _dangling(path: Path) -> None:
    if os.name == "nt":
        pytest.skip("links need a privilege there")
    path.symlink_to(path.parent.parent / "target.json")


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a link": _link,
    "a link to nothing": _dangling,
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("what", IRREGULAR)
@pytest.mark.parametrize("key", ["u", "User", "ann@example.com", "a~b"])
def test_what_is_no_regular_file_is_damage_to_who_asks_for_it_and_nothing_to_others(
    flat: FlatDirectory, directory: Path, what: str, key: str
) -> None:
    flat.commit(Batch(NAME, [Set("other", VALUE)]))
    path = directory / f"{key}.json"
    IRREGULAR[what](path)
    asked: list[bool] = []

    def ask() -> None:
        for batch in (Batch(NAME, [Get(key)]), Batch(NAME, [Set(key, b"{}")], [Check(key, 3)])):
            with pytest.raises(DamagedError) as caught:
                flat.commit(batch)
            assert caught.value.path == str(path)
        assert list(flat.keys(NAME)) == ["other"]
        asked.append(True)

    # A thread, because opening a pipe that nobody writes to could wait for ever. What it raises is a failure to pytest.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    assert asked
    assert os.path.lexists(path)


def test_a_document_that_is_nested_too_deep_does_not_hide_the_others(flat: FlatDirectory, directory: Path) -> None:
    flat.commit(Batch(NAME, [Set("other", VALUE)]))
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (directory / "a~b.json").write_bytes(deep)
    assert sorted(flat.keys(NAME)) == ["a~b", "other"]
    with pytest.raises(DamagedError):
        flat.commit(Batch(NAME, [Get("a~b")]))
    assert json.loads((directory / "other.json").read_bytes()) == json.loads(VALUE)
