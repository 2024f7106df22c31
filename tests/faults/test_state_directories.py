"""Directories of states as they are found: written by empathy-framework, used by others, damaged, or prepared."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from faults.apart import apart, become_nobody
from faults.hostile_files import HOSTILE, prepare_outside, put, take_away
from faults.trees import files, fingerprint, read_tree

from empathy_kv.errors import (
    CodecError,
    DamagedError,
    EmpathyKVError,
    StateNotFoundError,
    StorageError,
    StoragePermissionError,
)
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager

NAMES: Final = (
    *("user_123", "USER_123", "Ada Lovelace", " leading", "trailing ", "j.r.r.tolkien", "a.json", "dot."),
    *(
        "Zo\u00eb",
        "Zoe\u0308",
        "\u65e5\u672c\u8a9e",
        "\U0001f600",
        "ann@example.com",
        "a+b=c&d",
        "100%",
        "semi;colon",
        "[a]",
    ),
    *(
        "quote'",
        'double"',
        "new\nline",
        "tab\t",
        "back\\slash",
        "~",
        "a~b",
        "CON",
        "nul",
        "x" * 200,
        "-rf",
        "$HOME",
        "a:b",
    ),
)
"""Users whose files empathy-framework 3.9.3 made, under their bare names."""

FOREIGN: Final[Mapping[str, bytes]] = {
    "README.txt": b"states of users",
    ".DS_Store": b"\0\0\0\1Bud1",
    ".hidden.json": b"{}",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "user_123.json~": b"an editor's backup",
    "user_123.json.bak": b"a backup",
    "user_123.json.tmp": b'{"user_id": "user_123", "trust_lev',
    "#user_123.json#": b"another editor's",
    "JSON": b"{}",
    "no extension": b"{}",
}
"""What is no state, and has no name of one."""

UNREADABLE: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "spaces": b"  \n",
    "list": b"[1, 2]",
    "null": b"null",
    "number": b"12",
    "string": b'"user_123"',
    "cut": b'{"user_id": "cut", "trust_level": 0.',
    "twice": b'{"trust_level": 0.5}{"trust_level": 0.5}',
    "mark": b'\xef\xbb\xbf{"user_id": "mark", "trust_level": 0.5}',
    "latin": b'{"user_id": "latin", "trust_level": 0.5, "note": "caf\xe9"}',
    "utf16": '{"trust_level": 0.5}'.encode("utf-16"),
    "not a number": b'{"trust_level": NaN}',
    "binary": bytes(range(256)),
    "zeros": bytes(4096),
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "merge": b'<<<<<<< HEAD\n{"trust_level": 0.5}\n=======\n{"trust_level": 0.6}\n>>>>>>> theirs\n',
    "Upper Case": b"",
    "tilde~d": b"{",
}
"""What has the name of a state, and is damaged, or was never one."""

OTHERS: Final[Mapping[str, bytes]] = {
    "package": b'{"name": "states", "version": "1.0"}',
    "settings": b"{}",
    "strange": b'{"user_id": ["a"], "trust_level": 0.5}',
    "high": b'{"user_id": "high", "trust_level": 7}',
}
"""JSON objects that are no states."""


USERS: Final = ("ada", "Grace", "linus", "Bare Name")


def older(user: str, number: int, *, named: bool) -> bytes:
    """Return a state as empathy-framework 3.9.3 writes it."""
    document: dict[str, Any] = {
        "user_id": user,
        "trust_level": number / 100,
        "total_interactions": 50 + number,
        "successful_interventions": 45,
        "failed_interventions": 5 + number,
        "session_start": "2025-01-01T00:00:00",
        "trust_trajectory": [0.5, 0.55],
        "shared_context": {"project": "x"},
        "saved_at": "2025-01-20T15:00:00.123456",
    }
    if not named:
        del document["user_id"]
    return json.dumps(document, indent=2).encode()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with everything that may be in one."""
    path = tmp_path / "state"
    path.mkdir()
    for number, user in enumerate(NAMES):
        (path / f"{user}.json").write_bytes(older(user, number, named=number % 3 != 0))
    for name, content in FOREIGN.items():
        (path / name).write_bytes(content)
    for name, content in {**UNREADABLE, **OTHERS}.items():
        (path / f"{name}.json").write_bytes(content)
    (path / "archive").mkdir()
    (path / "archive" / "old.json").write_bytes(older("old", 1, named=True))
    (path / "directory.json").mkdir()
    return path


def test_every_user_is_found_between_all_that_is_none(directory: Path) -> None:
    states = StateManager(state_dir=directory)
    assert states.list_users() == sorted([*NAMES, *UNREADABLE, *OTHERS])
    for number, user in enumerate(NAMES):
        state = states.load_state(user)
        assert (state.user_id, state.trust_level) == (user, number / 100)
        assert (state.interaction_count, state.success_count, state.failure_count) == (50 + number, 45, 5 + number)
        assert state.extra["shared_context"] == {"project": "x"}
    for user in ("nobody", "README", "archive", "old", "archive/old", "directory", ".hidden", "user_123.json"):
        with pytest.raises((StateNotFoundError, DamagedError, StorageError)):
            states.load_state(user)


@pytest.mark.parametrize("user", UNREADABLE)
def test_an_unreadable_file_is_named_when_it_is_asked_for(directory: Path, user: str) -> None:
    with pytest.raises(DamagedError) as caught:
        StateManager(state_dir=directory).load_state(user)
    assert caught.value.path == str(directory / f"{user}.json")
    assert caught.value.path in str(caught.value)


@pytest.mark.parametrize("user", OTHERS)
def test_an_object_that_is_no_state_is_named_when_it_is_asked_for(directory: Path, user: str) -> None:
    with pytest.raises((CodecError, DamagedError)) as caught:
        StateManager(state_dir=directory).load_state(user)
    assert user in str(caught.value), f"it is not said whose state it is: {caught.value}"


def test_looking_changes_nothing(directory: Path) -> None:
    before = fingerprint(directory)
    states = StateManager(state_dir=directory)
    for user in states.list_users():
        try:
            states.load_versioned(user)
        except EmpathyKVError:
            pass
    assert fingerprint(directory) == before


def test_saving_and_deleting_leave_everything_else_as_it_was(directory: Path) -> None:
    before = files(read_tree(directory))
    states = StateManager(state_dir=directory)
    for user in ("new", "New", "user_123", "Ada Lovelace", "directory of nobody"):
        states.save_state(user, CollaborationState(user))
    assert states.delete_state("Zo\u00eb")
    assert states.delete_state("j.r.r.tolkien")
    changed = {"user_123.json", "Ada Lovelace.json", "Zo\u00eb.json", "j.r.r.tolkien.json"}
    after = files(read_tree(directory))
    assert {name: after.get(name) for name in before if name not in changed} == {
        name: content for name, content in before.items() if name not in changed
    }
    users = {*NAMES, *UNREADABLE, *OTHERS, "new", "New", "directory of nobody"} - {"Zo\u00eb", "j.r.r.tolkien"}
    assert states.list_users() == sorted(users)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_do_not_disturb_the_listing(directory: Path) -> None:
    (Path(os.fsdecode(os.fsencode(directory) + b"/caf\xe9.json"))).write_bytes(older("caf", 1, named=False))
    states = StateManager(state_dir=directory)
    users = states.list_users()
    assert {*NAMES} <= {*users}
    for user in users:
        user.encode()


@pytest.mark.parametrize("how", ["save", "delete"])
@pytest.mark.parametrize("user", ["cut", "empty", "list", "Upper Case", "tilde~d"])
def test_what_is_damaged_can_be_replaced_and_is_kept_aside(directory: Path, user: str, how: str) -> None:
    content = {**UNREADABLE, **OTHERS}[user]
    states = StateManager(state_dir=directory)
    if how == "save":
        states.save_state(user, CollaborationState(user, 0.25))
        assert states.load_state(user).trust_level == 0.25
    else:
        assert states.delete_state(user) is True
        with pytest.raises(StateNotFoundError):
            states.load_state(user)
        assert user not in states.list_users()
    assert {*states.list_users()} - {user} == {*NAMES, *UNREADABLE, *OTHERS} - {user}
    kept = [file for file in files(read_tree(directory)).values() if file == content]
    assert len(kept) >= [*UNREADABLE.values(), *OTHERS.values()].count(content), "the damaged file is gone"


@pytest.mark.parametrize("user", ["user_123", "Ada Lovelace"])
def test_every_damaged_byte_is_found_or_is_a_state_all_the_same(ram: Path, user: str) -> None:
    # The documented form has no checksum, so a byte may change a number and nobody can know. What is demanded: a
    # state or an error that says whose, and never the state of somebody else.
    states = StateManager(state_dir=ram)
    states.save_state("other", CollaborationState("other", 0.125))
    file = ram / f"{user}.json"
    good = older(user, 33, named=True)
    for at, mask in itertools.product(range(len(good)), (0xFF, 0x20)):
        file.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
        try:
            assert states.load_state(user).user_id == user
        except (DamagedError, CodecError, StateNotFoundError) as error:
            assert not isinstance(error, DamagedError) or error.path == str(file)
    for length in range(len(good)):
        file.write_bytes(good[:length])
        with pytest.raises((DamagedError, StateNotFoundError)):
            states.load_state(user)
    assert states.load_state("other").trust_level == 0.125


# What may not be written or read


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_states_of_another_user_can_be_read_if_their_modes_allow_it(for_all: Path) -> None:
    path = for_all / "state"
    states = StateManager(state_dir=path)
    for user in USERS[:3]:
        states.save_state(user, CollaborationState(user, 0.25))
    (path / f"{USERS[3]}.json").write_bytes(older(USERS[3], 25, named=True))
    for file in path.iterdir():
        file.chmod(0o444)
    path.chmod(0o555)
    before = fingerprint(path)

    def work() -> None:
        become_nobody()
        states = StateManager(state_dir=path)
        assert states.list_users() == sorted(USERS)
        for user in (*USERS, "new"):
            if user != "new":
                assert states.load_state(user).trust_level == 0.25
            with pytest.raises(StoragePermissionError) as caught:
                states.save_state(user, CollaborationState(user, 0.75))
            assert str(path) in caught.value.path
        with pytest.raises(StoragePermissionError):
            states.delete_state("ada")

    try:
        apart(work)
        assert fingerprint(path) == before
    finally:
        path.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("closed", ["above", "above/state", "above/state/ada.json", "above/state/Bare Name.json"])
def test_a_state_that_may_not_be_read_is_not_taken_for_absent(closed: str, for_all: Path) -> None:
    path, place = for_all / "above" / "state", for_all / closed
    StateManager(state_dir=path).save_state("ada", CollaborationState("ada"))
    (path / "Bare Name.json").write_bytes(older("Bare Name", 25, named=True))
    for file in (path.parent, path, *path.iterdir()):
        file.chmod(0o755)
    place.chmod(0)

    def work() -> None:
        become_nobody()
        states = StateManager(state_dir=path)
        user = "Bare Name" if place.name == "Bare Name.json" else "ada"
        with pytest.raises(StoragePermissionError):
            states.load_state(user)
        if place.suffix:
            assert states.list_users() == ["Bare Name", "ada"]
        else:
            with pytest.raises(StoragePermissionError):
                states.list_users()

    try:
        apart(work)
    finally:
        place.chmod(0o700)


# What somebody has prepared


def attack(here: Path, name: str, kind: str) -> None:
    """Put something hostile in the place of a file, use the directory, and look at what came of it."""
    path, outside = here / "state", here / "outside"
    states = StateManager(state_dir=path)
    for user in USERS[:3]:
        states.save_state(user, CollaborationState(user, 0.25))
    (path / f"{USERS[3]}.json").write_bytes(older(USERS[3], 25, named=True))
    prepare_outside(outside)
    place = Path(os.path.normpath(path / name))
    inode = put(kind, place, outside)
    before = fingerprint(outside)
    errors: dict[str, EmpathyKVError] = {}
    saved: dict[str, float] = {}
    victims = {user for user in USERS if place.name == f"{user}.json" or place in (path, path / ".lock")}

    states = StateManager(state_dir=path)
    for user in USERS:
        try:
            assert states.load_state(user).trust_level == 0.25
        except EmpathyKVError as error:
            errors[f"load {user}"] = error
    try:
        assert {*USERS} - victims <= {*states.list_users()} <= {*USERS, place.stem}
    except EmpathyKVError as error:
        errors["list"] = error
    for user in USERS:
        try:
            states.save_state(user, CollaborationState(user, 0.75))
            saved[user] = 0.75
        except EmpathyKVError as error:
            errors[f"save {user}"] = error
    for user in USERS:
        try:
            assert states.load_state(user).trust_level == saved.get(user, 0.25)
        except EmpathyKVError as error:
            errors[f"load {user} again"] = error

    assert fingerprint(outside) == before, "something outside was changed"
    for call, raised in errors.items():
        assert str(place) in f"{raised} {getattr(raised, 'path', '')}", f"{call} does not say where: {raised!r}"
        assert place == path or call != "list", f"nobody is listed: {raised}"
        assert any(user in call for user in victims) or call == "list", f"{call} does not work: {raised}"
        assert place != path / ".lock" or call.startswith("save"), f"{call} does not work: {raised}"
    take_away(inode, place, outside)
    for user in USERS:
        assert states.load_state(user).trust_level == saved.get(user, 0.25)
    for user in USERS:
        states.save_state(user, CollaborationState(user, 0.5))
        assert states.load_state(user).trust_level == 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", [".lock", "ada.json", "Bare Name.json", "foreign~name.json", "Eve.json"])
def test_what_stands_in_the_place_of_a_file_is_not_followed_and_never_hangs(name: str, kind: str, ram: Path) -> None:
    if name in ("foreign~name.json", "Eve.json") and kind == "a hard link to what it was":
        kind = "a foreign file"  # There was nothing.
    apart(lambda: attack(ram, name, kind), seconds=5.0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["a link to nothing", "a link to itself", "a FIFO", "a socket", "a foreign file"])
def test_what_is_no_directory_is_not_taken_for_one_without_states(kind: str, ram: Path) -> None:
    apart(lambda: attack(ram, ".", kind), seconds=5.0)
