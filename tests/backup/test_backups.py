"""Backups of stores, through the class that is for it."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from services import KINDS

from empathy_kv import (
    ArgumentError,
    ArgumentTypeError,
    BackupNotFoundError,
    Backups,
    CollaborationState,
    DamagedError,
    Keep,
    Pattern,
    Store,
    connect,
)
from empathy_kv.backup import archive, manifest, urls
from empathy_kv.errors import ClosedError, NotEmptyError, UnsupportedError
from empathy_kv.snapshot import Counts, content, dump

NOBODY = timedelta(seconds=-3600)


def filled(store: Store, number: int = 30) -> Store:
    store.patterns.contribute_patterns(
        "agent",
        [Pattern(f"p{n}", "agent", "suggestion", os.urandom(40).hex(), context={"n": n}) for n in range(number)],
    )
    store.patterns.link_patterns("p0", "p1")
    for n in range(number):
        store.states.save_state(f"u{n}", CollaborationState(f"u{n}", n / number))
        store.metrics.record_interaction(f"u{n % 3}", 3, n % 2 == 0, float(n))
    return store


@pytest.fixture
def store() -> Store:
    return filled(connect("memory:"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_backed_up_verified_and_restored(url: str, store: Store, tmp_path: Path) -> None:
    with Backups(url) as backups, connect(f"file:{tmp_path}/other", durability="os") as other:
        told: list[tuple[int, int | None]] = []
        made = backups.create(store)
        assert made.counts == Counts(30, 30, 3, 30)
        assert len(made.parts) > 1
        assert backups.list() == [made]
        assert backups.find() == backups.find(made.name) == made
        assert backups.verify(progress=lambda done, total: told.append((done, total))) == []
        assert told == [(n, len(made.parts)) for n in range(1, len(made.parts) + 1)]
        assert backups.restore(made.name, other) == made.counts
        assert content(dump(other)) == content(dump(store))


def test_a_backup_is_one_moment_while_others_write(tmp_path: Path) -> None:
    """A writer counts up two figures one after the other: no backup has the second without the first."""
    with connect(f"file:{tmp_path}/store", durability="os") as store, Backups(tmp_path / "b") as backups:
        stop = threading.Event()

        def write() -> None:
            n = 0
            while not stop.is_set():
                store.metrics.record_interaction("first", 3, True, 1.0)
                store.states.save_state("second", CollaborationState("second", extra={"n": n}))
                n += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            made = [backups.create(store) for _ in range(5)]
        finally:
            stop.set()
            writer.join()
        for backup in made:
            with connect("memory:") as copy:
                backups.restore(backup.name, copy)
                first = copy.metrics.get_user_stats("first")["total_operations"] if copy.metrics.get_all_users() else 0
                second = copy.states.load_state("second").extra["n"] + 1 if copy.states.list_users() else 0
                assert second <= first <= second + 1


def test_the_newest_usable_backup_is_the_one_that_is_meant(store: Store, tmp_path: Path) -> None:
    with Backups(tmp_path) as backups:
        with pytest.raises(BackupNotFoundError):
            backups.find()
        first, second = backups.create(store), backups.create(store)
        assert backups.find() == second
        (tmp_path / f"{second.name}.json").write_text("{}")
        assert backups.find() == first
        assert [backup.problem is None for backup in backups.list()] == [True, False]
        with pytest.raises(DamagedError):
            backups.restore(second.name, connect("memory:"))


@pytest.mark.usefixtures("small")
def test_a_damaged_backup_is_not_restored_and_nothing_is_changed(store: Store, tmp_path: Path) -> None:
    with Backups(tmp_path / "b") as backups, connect(f"file:{tmp_path}/s") as other:
        made = backups.create(store)
        other.states.save_state("mine", CollaborationState("mine"))
        before = content(dump(other))
        last = tmp_path / "b" / list(made.paths())[-1]
        last.write_bytes(last.read_bytes()[:-1])
        assert [error.path for error in backups.verify()] == [str(last)]
        with pytest.raises(DamagedError) as caught:
            backups.restore(None, other, replace=True)
        assert caught.value.path == str(last)
        assert content(dump(other)) == before


def test_what_is_damaged_after_it_was_verified_is_not_restored(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Backups(tmp_path / "b") as backups, connect(f"file:{tmp_path}/s") as other:
        made = backups.create(store)
        (path,) = (tmp_path / "b" / path for path in made.paths())
        verified = archive.problems

        def then_damaged(*arguments: Any) -> Any:
            yield from verified(*arguments)
            data = path.read_bytes()
            path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])

        monkeypatch.setattr(archive, "problems", then_damaged)
        with pytest.raises(DamagedError):
            backups.restore(None, other)
        assert content(dump(other)).counts == Counts()


def test_a_store_that_is_not_empty_is_replaced_only_if_that_is_said(store: Store, tmp_path: Path) -> None:
    with Backups(tmp_path / "b") as backups, connect("memory:") as other:
        backups.create(store)
        other.states.save_state("mine", CollaborationState("mine"))
        with pytest.raises(NotEmptyError):
            backups.restore(None, other)
        assert other.states.list_users() == ["mine"]
        backups.restore(None, other, replace=True)
        assert content(dump(other)) == content(dump(store))


def test_a_backup_is_named_by_itself_as_well_as_by_its_name(store: Store, tmp_path: Path) -> None:
    with Backups(tmp_path / "b") as backups:
        made, later = backups.create(store), backups.create(connect("memory:"))
        assert backups.find(made) == backups.find(made.name) == made
        assert backups.verify(made) == []
        for name in (made, made.name):
            with connect("memory:") as other:
                assert backups.restore(name, other) == made.counts
        backups.prune(Keep(last=1))
        with pytest.raises(BackupNotFoundError) as caught:
            backups.restore(made, connect("memory:"))
        assert caught.value.name == made.name
        assert backups.list() == [later]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_closed_is_not_used_any_more(url: str, store: Store) -> None:
    backups = Backups(url)
    made = backups.create(store)
    backups.close()
    backups.close()
    for call in (
        lambda: backups.create(store),
        backups.list,
        backups.find,
        lambda: backups.find(made.name),
        backups.verify,
        lambda: backups.restore(None, connect("memory:")),
        lambda: backups.prune(Keep(last=1)),
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()
    with Backups(url) as again:
        assert again.list() == [made]


def test_rules_for_what_is_kept_are_rules() -> None:
    for rules in (7, None, "7"):
        with pytest.raises(ArgumentTypeError, match=r"keep must be a Keep, as Keep\(last=7\), not (int|NoneType|str)"):
            Backups("nowhere").prune(rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_removes_what_no_rule_keeps_and_what_the_dead_left(url: str, store: Store) -> None:
    with Backups(url) as backups:
        made = [backups.create(store) for _ in range(5)]
        target = urls.opened(url, 60.0)
        target.delete([manifest.manifest_path(made[0].name)])  # As if it had died.
        target.put(manifest.manifest_path(made[1].name), b"damaged")
        would = backups.prune(Keep(last=2), dry_run=True, abandoned=NOBODY)
        assert [backup.name for backup in backups.list()] == [backup.name for backup in made[1:]]
        done = backups.prune(Keep(last=2), abandoned=NOBODY)
        assert done == would
        assert done.kept == tuple(made[3:])
        assert done.removed == (made[2],)
        assert [backup.name for backup in done.unusable] == [made[1].name]
        assert done.leftovers == len(made[0].parts)
        assert [backup.name for backup in backups.list()] == [made[1].name, made[3].name, made[4].name]
        assert backups.verify() == []
        assert backups.prune(Keep(last=2), abandoned=NOBODY).removed == ()
        names = {path.partition("/")[0] for path in target.objects()[1]}
        assert names == {made[1].name, made[3].name, made[4].name}
        target.close()


@pytest.mark.usefixtures("small")
def test_pruning_leaves_a_backup_alone_that_is_being_made(store: Store, tmp_path: Path) -> None:
    with Backups(tmp_path) as backups:
        target = urls.opened(tmp_path, 60.0)
        lines = list(dump(store))

        def slow() -> Any:
            yield from lines[:40]
            assert archive.leftovers(target, NOBODY)  # It has written something.
            assert backups.prune(Keep(last=1)).leftovers == 0
            yield from lines[40:]

        archive.write(target, slow())
        assert backups.verify() == []


def test_a_newer_format_is_told_from_damage_and_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Backups(tmp_path) as backups:
        monkeypatch.setattr(manifest, "VERSION", 2)
        newer = backups.create(store)
        monkeypatch.undo()
        made = [backups.create(store) for _ in range(2)]
        with pytest.raises(UnsupportedError, match="upgrade"):
            backups.verify(newer.name)
        with pytest.raises(UnsupportedError, match="upgrade"):
            backups.restore(newer.name, connect("memory:"))
        assert isinstance(backups.list()[0].problem, UnsupportedError)
        done = backups.prune(Keep(last=1), abandoned=NOBODY)
        assert done.removed == (made[0],)
        assert [backup.name for backup in backups.list()] == [newer.name, made[1].name]


@pytest.mark.parametrize(
    "target",
    [
        "ftp://host/x",
        "s3://",
        "s3://user:secret@bucket/x",
        "s3:/bucket/secret",
        "s3:secret",
        "AZ:/box/x",
        "gs:",
        "https:/host/secret",
        "redis:secret",
        "memory:",
        "s3://bucket/../x",
        "s3://bucket/x?sig=secret",
        "gs://bucket/a\nb",
        "az://secret@box/x",
        "file://secret/x",
        "",
        "a\0b",
    ],
)
def test_a_target_that_is_none_is_refused_without_a_word_of_it(target: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Backups(target)
    assert caught.value.argument == "target"
    assert "secret" not in str(caught.value)


def test_a_name_is_a_text_and_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    with Backups(tmp_path / "b") as backups:
        with pytest.raises(ArgumentTypeError):
            backups.find(7)  # type: ignore[arg-type]
        for name in ("../secret", "/etc/passwd", "20250115T020000.000000Z-1a2b3c4d/../../secret", "*", "\0", "a\nb"):
            for call in (backups.find, backups.verify):
                with pytest.raises(BackupNotFoundError) as caught:
                    call(name)
                assert caught.value.name == name


def test_a_target_is_a_path_or_a_url() -> None:
    with pytest.raises(ArgumentTypeError):
        Backups(7)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        Backups("somewhere", timeout=0)


def test_a_directory_may_be_named_in_every_way(store: Store, tmp_path: Path) -> None:
    for target in (tmp_path / "a b", str(tmp_path / "a b"), f"file:{tmp_path}/a b", f"file://{tmp_path}/a%20b"):
        Backups(target).create(store)
    assert len(Backups(tmp_path / "a b").list()) == 4


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "empathy_kv.backup.service", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ArgumentError, match=r"pip install obstore brings it, as the extra backup does"):
        Backups("s3://bucket/x")
    Backups(tmp_path)
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(UnsupportedError, match=r"pip install backports.zstd brings it, as the extra backup does"):
        Backups(tmp_path)
