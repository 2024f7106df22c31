"""File systems that take different names for one, or refuse some: macOS, Windows.

On them, too, every key, namespace and user has what was stored for it, and nothing else.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from faults.apart import apart, private_mounts
from faults.folding_file_system import Kind, allowed_on_windows, folded, mount_folding

from empathy_kv.errors import StateNotFoundError, StorageError
from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.operations import MAX_NAME
from empathy_kv.records import MAX_ID, CollaborationState
from empathy_kv.states import StateManager
from empathy_kv.testing.hostile import HOSTILE, storable

KEYS: Final = [text for text in HOSTILE if storable(text)]
NAMESPACES: Final = [text for text in HOSTILE if storable(text, MAX_NAME - len("a"))]
USERS: Final = [text for text in HOSTILE if storable(text, MAX_ID)]

TWINS: Final = [
    "Alice",
    "alice",
    "ALICE",
    "Zo\u00e9",
    "Zoe\u0301",
    "zo\u00e9",
    "ss",
    "\u00df",
    "\u1e9e",
    "K",
    "\u212a",
    "k",
]
"""Names that some file system takes for one."""
STEP: Final = 1 if os.environ.get("EMPATHY_KV_PROFILE") == "nightly" else 4
"""Of how many keys and users one is stored where names are folded, which is slow; the names of all are looked at."""

folding = pytest.mark.parametrize("kind", ["mac", "windows"])


def on(kind: Kind, ram: Path, work: Callable[[Path], Any], seconds: float = 60.0) -> Any:
    """Do some work with a directory of a file system that folds names."""

    def mounted() -> Any:
        private_mounts()
        mount_folding(kind, ram / "behind", ram / "folding")
        return work(ram / "folding")

    return apart(mounted, seconds=seconds)


def opened(path: Path) -> FilesKV:
    return FilesKV(path, durability="os")


def value(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def require_portable(root: Path) -> None:
    """Require of everything below a directory a name that each file system keeps apart from the others, and allows."""
    for directory, directories, files in os.walk(root):
        names = [*directories, *files]
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            same = Counter(unicodedata.normalize(form, folded(name)) for name in names)
            assert max(same.values(), default=1) == 1, f"{form} takes names in {directory} for one"
        refused = [name for name in names if not allowed_on_windows(name)]
        assert not refused, f"Windows refuses names in {directory}"
        assert all(len(os.fsencode(name)) <= 255 for name in names), f"too long a name in {directory}"


# On every machine: by the names themselves


def test_the_files_of_the_strangest_keys_have_names_that_every_file_system_keeps_apart(ram: Path) -> None:
    with opened(ram) as kv:
        for key in KEYS:
            kv.namespace("a").set(key, value(key))
    require_portable(ram)
    assert sum(path.suffix == ".json" for path in ram.rglob("*")) == len(KEYS)


def test_the_directories_of_the_strangest_namespaces_have_names_that_every_file_system_keeps_apart(
    ram: Path,
) -> None:
    with opened(ram) as kv:
        for text in NAMESPACES:
            kv.namespace(text).set("k", value(text))
            kv.namespace("a", text).set("k", value(f"a, {text}"))
    require_portable(ram)
    assert sum(path.name == "k.json" for path in ram.rglob("*")) == 2 * len(NAMESPACES)


def test_the_directories_of_the_strangest_prefixes_have_names_that_every_file_system_keeps_apart(
    ram: Path,
) -> None:
    prefixes = [text for text in HOSTILE if storable(text, 128)]
    for prefix in prefixes:
        with FilesKV(ram, durability="os", prefix=prefix) as kv:
            kv.namespace("a").set("k", value(prefix))
    require_portable(ram)
    for prefix in prefixes:
        with FilesKV(ram, durability="os", prefix=prefix) as kv:
            assert kv.namespace("a").get("k") == value(prefix)


def test_the_files_of_the_strangest_users_have_names_that_every_file_system_keeps_apart(ram: Path) -> None:
    states = StateManager(state_dir=ram)
    for user in USERS:
        states.save_state(user, CollaborationState(user))
    require_portable(ram)
    assert states.list_users() == sorted(USERS)


# On a file system that folds


@folding
def test_the_file_system_takes_twins_for_one(kind: Kind, ram: Path) -> None:
    def work(directory: Path) -> list[str]:
        for name in ("Alice", "alice", "Zo\u00e9", "Zoe\u0301"):
            (directory / name).write_text(name)
        for name in ("CON", "nul.txt", "a:b"):
            try:
                (directory / name).write_text(name)
            except OSError:
                continue
        return sorted(f"{path.name}={path.read_text()}" for path in directory.iterdir())

    expected = {
        "mac": ["Alice=alice", "CON=CON", "Zo\u00e9=Zoe\u0301", "a:b=a:b", "nul.txt=nul.txt"],
        "windows": ["Alice=alice", "Zoe\u0301=Zoe\u0301", "Zo\u00e9=Zo\u00e9"],
    }
    assert on(kind, ram, work) == expected[kind]


@folding
def test_every_key_has_a_value_of_its_own(kind: Kind, ram: Path) -> None:
    keys = {*TWINS, *KEYS[::STEP]}

    def work(directory: Path) -> None:
        with opened(directory / "store") as kv:
            for key in keys:
                kv.namespace("a").set(key, value(key))
        with opened(directory / "store") as kv:
            ns = kv.namespace("a")
            wrong = [key for key in keys if ns.get(key) != value(key)]
            assert wrong == []
            assert sorted(ns.keys()) == sorted(keys)
            assert ns.delete("Alice")
            assert ns.delete("Zoe\u0301")
            kv.checkpoint()
        with opened(directory / "store") as kv:
            ns = kv.namespace("a")
            assert sorted(ns.keys()) == sorted(keys - {"Alice", "Zoe\u0301"})
            assert ns.get("alice") == value("alice")
            assert ns.get("Zo\u00e9") == value("Zo\u00e9")

    on(kind, ram, work)


@folding
def test_every_namespace_has_values_of_its_own(kind: Kind, ram: Path) -> None:
    def work(directory: Path) -> None:
        names = [*dict.fromkeys([*TWINS, "CON", "con", "nul.json", "a.", "a", "a ", "a:b", "a-b", "a/b", "lock"])]
        with opened(directory / "store") as kv:
            for name in names:
                kv.namespace(name).set("k", value(name))
                kv.namespace("a", name).set("k", value(f"a, {name}"))
        with opened(directory / "store") as kv:
            for name in names:
                assert kv.namespace(name).get("k") == value(name)
                assert kv.namespace("a", name).get("k") == value(f"a, {name}")

    on(kind, ram, work)


@folding
def test_every_user_has_a_state_of_their_own(kind: Kind, ram: Path) -> None:
    users = sorted({*TWINS, *USERS[::STEP]})

    def work(directory: Path) -> None:
        states = StateManager(state_dir=directory / "state")
        for number, user in enumerate(users):
            states.save_state(user, CollaborationState(user, interaction_count=number))
        again = StateManager(state_dir=directory / "state")
        wrong = [user for number, user in enumerate(users) if again.load_state(user).interaction_count != number]
        assert wrong == []
        assert again.list_users() == users
        assert again.delete_state("Alice")
        with pytest.raises(StateNotFoundError):
            again.load_state("Alice")
        assert again.load_state("alice").user_id == "alice"
        assert again.list_users() == sorted({*users} - {"Alice"})

    on(kind, ram, work)


@folding
@pytest.mark.parametrize("present", ["Alice", "alice", "Zo\u00e9"])
def test_a_file_of_empathy_framework_belongs_to_nobody_whose_name_only_folds_into_it(
    kind: Kind, ram: Path, present: str
) -> None:
    others = {"Alice": ("alice", "ALICE"), "alice": ("Alice", "ALICE"), "Zo\u00e9": ("zo\u00e9", "ZO\u00c9")}[present]
    document = {"user_id": present, "trust_level": 0.9, "total_interactions": 7}

    def work(directory: Path) -> None:
        state_dir = directory / "state"
        state_dir.mkdir()
        file = state_dir / f"{present}.json"
        file.write_text(json.dumps(document))
        states = StateManager(state_dir=state_dir)
        assert states.list_users() == [present]
        assert states.load_state(present).interaction_count == 7
        saved = []
        for other in others:
            with pytest.raises(StateNotFoundError):
                states.load_state(other)
            assert states.delete_state(other) is False
            try:
                states.save_state(other, CollaborationState(other, 0.1), expected_version=0)
                saved.append(other)
            except StorageError as error:  # The only name that it could have is taken.
                assert str(state_dir / f"{other}.json") == error.path
        assert json.loads(file.read_text()) == document
        assert states.load_state(present).trust_level == 0.9
        assert all(states.load_state(other).trust_level == 0.1 for other in saved)
        assert states.list_users() == sorted([present, *saved])

    on(kind, ram, work)
