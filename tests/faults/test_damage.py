"""Damaged files: a store answers the newest that was committed, or says which file is damaged. Never anything else.

The one exception. A journal whose end is missing, or reads as zeros, is what a crash leaves of the writes under way.
Nothing can tell it from one whose end was lost later, so then the answers may be those after the last batch that is
whole in what is left: an older state, but one of whole batches, and the same for all keys. It holds for the file that
the last batch was appended to; for no other file, and for no other damage.

What cannot be known is not demanded: that a file was there which is gone, or that a whole and valid one is an older
copy. Then a key may answer what it did at another time, but never what it never did.

The tests know nothing of the files but their bytes after each batch, and that the document of a key is `<key>.json`.
"""

from __future__ import annotations

import collections
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen
from faults.histories import KINDS, NEIGHBOUR, NEIGHBOURS, SPACE, History, State, answer, opened, write_history
from faults.trees import Tree, files, fingerprint, read_tree, write_tree

from empathy_kv.errors import ClosedError, DamagedError, EmpathyKVError
from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.interface import Namespace
from empathy_kv.kv.operations import (
    Check,
    Delete,
    Expire,
    HDel,
    HIncrBy,
    HSet,
    IncrBy,
    Operation,
    Set,
    ZAdd,
    ZAppend,
    ZRem,
    ZTrim,
)

NIGHTLY: Final = os.environ.get("EMPATHY_KV_PROFILE") == "nightly"
GARBAGE: Final = bytes(range(255, 191, -1))
SECTOR: Final = 512


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return write_history(tmp_path_factory.mktemp("history") / "store")


@pytest.fixture(autouse=True)
def _nobody_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may look again in a moment whether a writer was at work. Here nobody is, and there are thousands."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


IMAGES: Final = ("with a journal", "closed")


# Damage


@frozen
class Damage:
    """One file that holds something else."""

    what: str
    file: str
    content: bytes


def flips(tree: Tree) -> Iterator[Damage]:
    """Every byte with a bit flipped or all; in the nightly run with each of its bits, and all."""
    masks = [0xFF, *(1 << bit for bit in range(8))]
    for file, content in files(tree).items():
        for at, byte in enumerate(content):
            for mask in masks if NIGHTLY else random.sample(masks, 1):
                changed = content[:at] + bytes([byte ^ mask]) + content[at + 1 :]
                yield Damage(f"byte {at} of {len(content)} ^ {mask:#x}", file, changed)


def cuts(tree: Tree) -> Iterator[Damage]:
    """Every file cut at every length."""
    for file, content in files(tree).items():
        for length in range(len(content)):
            yield Damage(f"cut from {len(content)} to {length} bytes", file, content[:length])


def ends_of_zeros(tree: Tree) -> Iterator[Damage]:
    """Every file of its length, but zeros from some place on: its size had reached the disk, and its bytes had not."""
    for file, content in files(tree).items():
        for at in range(0, len(content), 1 if NIGHTLY else 3):
            changed = content[:at] + bytes(len(content) - at)
            if changed != content:
                yield Damage(f"zeros from {at} of {len(content)} on", file, changed)


def holes(tree: Tree) -> Iterator[Damage]:
    """Every file with zeros in its midst."""
    for file, content in files(tree).items():
        for at, size in itertools.product(range(0, len(content), 16), (4, 64)):
            changed = content[:at] + bytes(size) + content[at + size :]
            if at + size < len(content) and changed != content:
                yield Damage(f"{size} zeros at {at} of {len(content)}", file, changed)


def longer(tree: Tree) -> Iterator[Damage]:
    """Every file with something behind it, twice, or with something else in its place."""
    for file, content in files(tree).items():
        if not content:
            continue
        for name, more in (
            ("a byte", b"x"),
            ("a line", b"\n"),
            ("garbage", GARBAGE),
            ("much garbage", GARBAGE * 100),
            ("a sector of zeros", bytes(SECTOR)),
            ("itself", content),
            ("half of itself", content[: len(content) // 2]),
            ("its second half", content[len(content) // 2 :]),
        ):
            yield Damage(f"{name} behind it", file, content + more)
        yield Damage("itself before it is whole", file, content[: len(content) // 2] + content)
        yield Damage("garbage in its place", file, (GARBAGE * len(content))[: len(content)])
        yield Damage("text in its place", file, b"{}\n")


def others_in_its_place(tree: Tree) -> Iterator[Damage]:
    """Every file with the content of another of the same directory."""
    contents = files(tree)
    for file, other in itertools.permutations(contents, 2):
        if contents[file] and contents[other] != contents[file] and Path(file).parent == Path(other).parent:
            yield Damage(f"what {Path(other).name} holds", file, contents[other])


def missing_parts(history: History) -> Iterator[Damage]:
    """The journal without one of its batches, with one of them twice, and with two in the wrong order."""
    ends = [len(files(moment.tree)[history.journal]) for moment in history.moments[-1]]
    whole = files(history.newest.tree)[history.journal]
    parts = [whole[start:end] for start, end in itertools.pairwise(ends)]
    head = whole[: ends[0]]
    assert head + b"".join(parts) == whole
    for at in range(len(parts)):
        if at < len(parts) - 1:
            yield Damage(f"without batch {at}", history.journal, head + b"".join(parts[:at] + parts[at + 1 :]))
            swapped = [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]
            yield Damage(f"batch {at + 1} before {at}", history.journal, head + b"".join(swapped))
        yield Damage(f"batch {at} twice", history.journal, head + b"".join(parts[: at + 1] + parts[at:]))
        yield Damage(f"batch {at} again", history.journal, whole + parts[at])


def of_all_sorts(tree: Tree) -> Iterator[Damage]:
    """Some of every sort; in the nightly run all."""
    step = 1 if NIGHTLY else 11
    for damages in (flips, cuts, ends_of_zeros, holes, longer, others_in_its_place):
        yield from itertools.islice(damages(tree), None if NIGHTLY else random.randrange(step), None, step)


# What is found


def answers(ns: Namespace, place: Path | None = None) -> dict[str, Any]:
    """Return what the keys answer, but those that are told to be damaged, at this place."""
    found = {}
    for key in KINDS:
        try:
            found[key] = answer(ns, key)
        except DamagedError as error:
            assert place is None or error.path == str(place), f"{key} names {error.path}"
            assert error.path in str(error)
    return found


def listed(ns: Namespace, place: Path | None = None) -> tuple[list[str], bool]:
    """Return the keys, and whether they were told to be all."""
    found: list[str] = []
    try:
        found.extend(ns.keys())
    except DamagedError as error:
        assert place is None or error.path == str(place), f"keys() names {error.path}"
        return found, False
    return found, True


def present(state: State) -> list[str]:
    return sorted(key for key, content in state.items() if content is not None)


def difference(found: State, state: State) -> State:
    return {key: content for key, content in found.items() if content != state[key]}


def close(kv: FilesKV) -> None:
    """Close a damaged store: it may say that it is, and must not lose anything by it."""
    try:
        kv.close()
    except DamagedError:
        pass


def reset(root: Path, tree: Tree, *damages: Damage) -> None:
    """Make the store have exactly these files."""
    write_tree(root, {**tree, **{damage.file: damage.content for damage in damages}})


def each(damages: Iterable[Damage], root: Path, tree: Tree, require: Callable[[Damage], None]) -> None:
    """Do each damage to a whole store, and collect what is wrong with what comes of it."""
    count, wrong = 0, collections.defaultdict[str, list[str]](list)
    for damage in damages:
        count += 1
        reset(root, tree, damage)
        try:
            require(damage)
        except (AssertionError, EmpathyKVError, OSError, ValueError, TypeError) as error:
            wrong[f"{damage.file}: {type(error).__name__}: {str(error).splitlines()[0][:160]}"].append(damage.what)
    assert count >= 10
    if wrong:
        lines = [f"{len(whats):5} x {what}, as by: {whats[0]}" for what, whats in wrong.items()]
        pytest.fail(f"{sum(map(len, wrong.values()))} of {count}:\n" + "\n".join(lines), pytrace=False)


@frozen
class Case:
    """A store that was whole, where it is, and what it answered."""

    root: Path
    history: History
    tree: Tree

    def left(self, damage: Damage) -> int | None:
        """Return how much of the journal is as it was if only its end is lost: see the exception above."""
        if self.tree is not self.history.newest.tree or damage.file != self.history.journal:
            return None
        whole = files(self.tree)[damage.file]
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(damage.content, whole, strict=False))
        left = sum(1 for _ in same)
        return None if damage.content[left:].strip(b"\0") else left

    def states(self, damage: Damage) -> list[State]:
        """Return the states that may be answered."""
        newest, left = self.history.newest.state, self.left(damage)
        return [newest] if left is None else [newest, self.history.after_a_cut(left)]

    def takes_writes(self, damage: Damage, key: str) -> bool:
        """Whether the key can be written: if another document is damaged, or whole batches are left of the journal."""
        left = self.left(damage)
        if left is not None:
            return left >= len(files(self.history.moments[-1][0].tree)[self.history.journal])
        return damage.file.endswith(".json") and damage.file != self.history.document(key)

    def near(self, damage: Damage) -> bool:
        """Whether it is in the directory of the namespace that is asked."""
        return damage.file.startswith(f"{self.history.directory()}/")


@pytest.fixture(params=IMAGES)
def case(request: pytest.FixtureRequest, history: History, ram: Path) -> Case:
    """The files of the store as a crash leaves them, and as `close` does."""
    return Case(ram / "store", history, history.newest.tree if request.param == IMAGES[0] else history.settled)


# Reading


SORTS: Final = pytest.mark.parametrize(
    "damages", [flips, cuts, ends_of_zeros, holes, longer, others_in_its_place], ids=lambda damages: damages.__name__
)


@SORTS
def test_keys_answer_the_newest_or_name_the_damaged_file(
    damages: Callable[[Tree], Iterator[Damage]], case: Case
) -> None:
    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            ns, place = kv.namespace(*SPACE), case.root / damage.file
            found = answers(ns, place)
            states = [state for state in case.states(damage) if not difference(found, state)]
            assert states, f"answers {difference(found, case.history.newest.state)}"
            keys, complete = listed(ns, place)
            assert len(keys) == len(set(keys)), "a key is listed twice"
            assert any(
                sorted(keys) == present(state) if complete else set(keys) <= {*present(state)} for state in states
            ), f"keys() gives {'all of' if complete else 'at least'} {sorted(keys)}"
            if case.near(damage):
                assert kv.namespace(*NEIGHBOUR).get("k") == NEIGHBOURS
            else:
                assert found.keys() == KINDS.keys()
        finally:
            close(kv)

    each(damages(case.tree), case.root, case.tree, require)


def test_the_other_keys_can_be_read_when_a_document_is_damaged(case: Case) -> None:
    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            found = answers(kv.namespace(*SPACE))
            assert KINDS.keys() - found.keys() <= {Path(damage.file).stem}, f"only {sorted(found)} can be read"
        finally:
            close(kv)

    documents = {file: content for file, content in files(case.tree).items() if file.endswith(".json")}
    each(of_all_sorts(documents), case.root, case.tree, require)


def test_a_journal_in_which_a_batch_is_missing_or_out_of_order_is_told(history: History, ram: Path) -> None:
    case = Case(ram / "store", history, history.newest.tree)

    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            found = answers(kv.namespace(*SPACE), case.root / damage.file)
            assert not difference(found, history.newest.state), f"answers {difference(found, history.newest.state)}"
        finally:
            close(kv)

    each(missing_parts(history), case.root, case.tree, require)


def test_reading_a_damaged_store_changes_nothing(case: Case) -> None:
    def require(damage: Damage) -> None:
        before = fingerprint(case.root)
        kv = opened(case.root)
        answers(kv.namespace(*SPACE))
        listed(kv.namespace(*SPACE))
        try:
            assert fingerprint(case.root) == before
        finally:
            close(kv)

    each(of_all_sorts(case.tree), case.root, case.tree, require)


def test_closing_a_damaged_store_loses_nothing(case: Case) -> None:
    def require(damage: Damage) -> None:
        place = case.root / damage.file
        kv = opened(case.root)
        found = answers(kv.namespace(*SPACE), place)
        close(kv)
        unneeded = damage.file == case.history.journal and (
            found == case.history.newest.state or case.left(damage) is not None
        )
        assert unneeded or damage.content in read_tree(case.root).values(), "the damaged file is gone"
        kv = opened(case.root)
        try:
            again = answers(kv.namespace(*SPACE))
            assert {key: again.get(key, "damaged") for key in found} == found
            assert again == found or not difference(again, case.history.newest.state)
        finally:
            close(kv)

    each(of_all_sorts(case.tree), case.root, case.tree, require)


def test_a_damaged_document_that_is_put_right_again_is_not_behind_the_journal(history: History, ram: Path) -> None:
    root, tree, state = ram / "store", history.newest.tree, history.newest.state
    for key in ("total", "hash", "zset", "quiet"):
        file = history.document(key)
        reset(root, tree, Damage("", file, files(tree)[file][:-9]))
        for number in range(2):
            kv = opened(root)
            answers(kv.namespace(*SPACE))
            kv.namespace(*SPACE).set("value", b"%d" % number)
            close(kv)
        assert files(tree)[file][:-9] in read_tree(root).values(), "the damaged file is gone"
        (root / file).write_bytes(files(tree)[file])
        with opened(root) as kv:
            found = answers(kv.namespace(*SPACE))
            assert found["value"][0] == b"1"
            assert not difference({**found, "value": state["value"]}, state), f"{key}: {found.get(key)}"


def test_keys_yields_all_that_can_be_read_and_then_names_a_damaged_document(history: History, ram: Path) -> None:
    root, tree = ram / "store", history.settled
    documents = [file for file in files(tree) if file.startswith(f"{history.directory()}/") and file.endswith(".json")]
    assert len(documents) == len(present(history.newest.state)) > 4
    for size in (1, 2, len(documents)):
        for hurt in itertools.combinations(documents, size):
            reset(root, tree, *(Damage("", file, tree[file][:-9] + b"?" * 9) for file in hurt))  # type: ignore[index]
            with opened(root) as kv:
                found: list[str] = []
                with pytest.raises(DamagedError) as caught:
                    found.extend(kv.namespace(*SPACE).keys())
                assert caught.value.path in {str(root / file) for file in hurt}
                assert sorted(found) == sorted({*present(history.newest.state)} - {Path(file).stem for file in hurt})


# Writing


def test_what_is_written_to_a_damaged_store_lasts_or_is_refused(case: Case) -> None:
    writes: dict[str, Operation] = {"quiet": Set("quiet", b"rescued"), "total": IncrBy("total", 50_000)}

    def require(damage: Damage) -> None:
        kv = opened(case.root)
        ns = kv.namespace(*SPACE)
        expected = answers(ns, case.root / damage.file)
        for key, operation in writes.items():
            try:
                (reply,) = ns.execute(operation)
            except DamagedError as error:
                assert error.path == str(case.root / damage.file)
                assert key not in expected or not case.takes_writes(damage, key), f"{operation} was refused"
                continue
            if key == "total":
                assert reply == int(expected[key][0]) + 50_000
            expected[key] = (b"rescued" if key == "quiet" else b"%d" % reply, ns.version(key), None)
            assert answer(ns, key) == expected[key]
        for when in ("another process", "after close", "after one more"):
            if when != "another process":
                close(kv)
            other = opened(case.root)
            found = answers(other.namespace(*SPACE))
            lost = {key: found.get(key, "damaged") for key in expected if found.get(key, "damaged") != expected[key]}
            close(other)
            assert not lost, f"{when} is told {lost}, not { ({key: expected[key] for key in lost}) }"

    each(of_all_sorts(case.tree), case.root, case.tree, require)


def test_a_journal_cut_short_at_any_place_takes_new_batches_which_last(history: History, ram: Path) -> None:
    case = Case(ram / "store", history, history.newest.tree)
    whole, crashed = files(case.tree)[history.journal], ram / "crashed"

    def require(damage: Damage) -> None:
        left = case.left(damage) or 0
        expected = {**history.after_a_cut(left)}
        with opened(case.root) as kv:
            reply = kv.namespace(*SPACE).incr("total", 50_000)
            assert reply == int(expected["total"][0]) + 50_000
            expected["total"] = answer(kv.namespace(*SPACE), "total")
            write_tree(crashed, read_tree(case.root))
        for place in (crashed, case.root):
            with opened(place) as kv:
                assert not difference(answers(kv.namespace(*SPACE)), expected)

    first = len(files(history.moments[-1][0].tree)[history.journal])
    lengths = range(first, len(whole), 1 if NIGHTLY else 3)
    each((Damage(f"cut to {left}", history.journal, whole[:left]) for left in lengths), case.root, case.tree, require)


def test_a_batch_that_is_repeated_with_its_token_is_not_applied_again_by_a_damaged_store(case: Case) -> None:
    newest = case.history.newest

    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            before = answers(kv.namespace(*SPACE)).get("total")
            try:
                replies = kv.execute(newest.batch)
            except DamagedError:
                return
            after = answers(kv.namespace(*SPACE)).get("total")
            if before is None or after is None or before == newest.state["total"]:
                assert replies == newest.replies, f"it gave {replies}, and {newest.replies} the first time"
                assert after == before
            else:
                assert after[0] == b"%d" % replies[0] == b"%d" % (int(before[0]) + 4000)
        finally:
            close(kv)

    each(of_all_sorts(case.tree), case.root, case.tree, require)


REPLACING: Final[dict[str, Callable[[Namespace, str], object]]] = {
    "set": lambda ns, key: ns.set(key, b"rescued"),
    "delete": lambda ns, key: ns.delete(key),
    "delete, then a hash": lambda ns, key: ns.execute(Delete(key), HIncrBy(key, {"count": 5})),
    "set, then an increment": lambda ns, key: ns.execute(Set(key, b"5"), IncrBy(key, 5)),
}
REPLACED: Final = {
    "set": ("get", b"rescued"),
    "delete": ("get", None),
    "delete, then a hash": ("hgetall", {"count": b"5"}),
    "set, then an increment": ("get", b"10"),
}


@pytest.mark.parametrize("how", REPLACING)
@pytest.mark.parametrize("key", ["quiet", "total", "hash", "zset"])
def test_a_damaged_document_can_be_replaced_and_is_kept_aside(how: str, key: str, case: Case) -> None:
    place = case.history.document(key)
    good = files(case.tree)[place]
    (call, value), expected = REPLACED[how], case.history.newest.state
    left = sorted({*present(expected)} - ({key} if value is None else set()))
    remains = [good[:-20], good[: len(good) // 2] + b"?" + good[len(good) // 2 + 1 :], b""]
    reset(case.root, case.tree)
    for number, content in enumerate(remains, 1):
        (case.root / place).write_bytes(content)
        with opened(case.root) as reader, opened(case.root) as kv:
            ns = kv.namespace(*SPACE)
            for seen in (ns, reader.namespace(*SPACE)):
                with pytest.raises(DamagedError) as caught:
                    seen.exists(key)
                assert caught.value.path == str(case.root / place)
            REPLACING[how](ns, key)
            for seen in (ns, reader.namespace(*SPACE)):
                assert getattr(seen, call)(key) == value
                assert sorted(seen.keys()) == left
            kv.checkpoint()
            assert getattr(ns, call)(key) == value
        with opened(case.root) as kv:
            ns = kv.namespace(*SPACE)
            assert getattr(ns, call)(key) == value
            assert {other: answer(ns, other) for other in KINDS if other != key} == {
                other: expected[other] for other in KINDS if other != key
            }
            ns.set(key, b"a document again, to be damaged")
        kept = list(files(read_tree(case.root)).values())
        assert all(content in kept for content in remains[:number]), "a damaged file is gone"


MERGING: Final = [
    HIncrBy("hash", {"count": 1}),
    HSet("hash", {"name": b"Ada"}),
    HDel("hash", ["name"]),
    IncrBy("total", 1),
    ZAdd("zset", {b"low": 3.0}),
    ZAppend("zset", [b"more"]),
    ZRem("zset", [b"low"]),
    ZTrim("zset", 1),
    Expire("quiet", 60.0),
    Expire("quiet", None),
]


@pytest.mark.parametrize("operation", MERGING, ids=lambda operation: f"{type(operation).__name__} {operation.key}")
def test_what_would_add_to_a_damaged_document_is_refused_with_its_whole_batch(
    operation: Operation, history: History, ram: Path
) -> None:
    root, place = ram / "store", history.document(operation.key)
    reset(root, history.settled, Damage("", place, files(history.settled)[place][:-9]))
    before = fingerprint(root)
    with opened(root) as kv:
        ns = kv.namespace(*SPACE)
        for batch in ([operation], [Set("fresh", b"with it"), operation], [operation, Set("value", b"with it")]):
            with pytest.raises(DamagedError) as caught:
                ns.execute(*batch)
            assert caught.value.path == str(root / place)
        assert ns.get("fresh") == b"only in the journal"
    assert fingerprint(root) == before


@pytest.mark.parametrize("version", [None, 0, 3])
def test_a_precondition_on_a_damaged_document_is_neither_met_nor_failed(
    version: int | None, history: History, ram: Path
) -> None:
    root, place = ram / "store", history.document("quiet")
    reset(root, history.settled, Damage("", place, files(history.settled)[place][:-9]))
    with opened(root) as kv:
        ns = kv.namespace(*SPACE)
        for key in ("quiet", "value"):
            with pytest.raises(DamagedError):
                ns.execute(Set(key, b"new"), checks=[Check("quiet", version)])
        assert ns.get("value") == history.newest.state["value"][0]
        with pytest.raises(DamagedError):
            ns.exists("quiet")
        with pytest.raises(DamagedError):
            ns.version("quiet")
        with pytest.raises(DamagedError):
            ns.ttl("quiet")


# What cannot be known


def older_copies(case: Case) -> Iterator[Damage]:
    """Every file as it was at an earlier time."""
    for number, moment in enumerate(itertools.chain.from_iterable(case.history.moments)):
        for file, content in files(moment.tree).items():
            if file in case.tree and case.tree[file] != content:
                yield Damage(f"as after batch {number}", file, content)


def test_an_older_copy_in_the_place_of_a_file_gives_nothing_that_never_was(case: Case) -> None:
    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            found = answers(kv.namespace(*SPACE))
            never = {key: content for key, content in found.items() if content not in case.history.ever(key)}
            assert not never, f"answers {never}"
            if damage.file.endswith(".json"):
                others = {key: content for key, content in found.items() if key != Path(damage.file).stem}
                assert len(others) == len(KINDS) - 1
                assert not difference(others, case.history.newest.state)
        finally:
            close(kv)

    each(older_copies(case), case.root, case.tree, require)


def test_what_is_written_beside_an_older_copy_lasts_or_is_refused(case: Case) -> None:
    def require(damage: Damage) -> None:
        kv, written = opened(case.root), {}
        for key in ("value", "quiet", "fresh"):
            try:
                kv.namespace(*SPACE).set(key, b"rescued")
            except DamagedError as error:
                assert error.path == str(case.root / damage.file)
                continue
            written[key] = b"rescued"
        for when in ("another process", "after close", "after one more"):
            if when != "another process":
                close(kv)
            other = opened(case.root)
            found = {key: other.namespace(*SPACE).get(key) for key in written}
            close(other)
            assert found == written, f"{when} is told {found}"

    each(older_copies(case), case.root, case.tree, require)


def test_where_a_file_is_gone_the_others_are_as_they_were_and_writes_last(case: Case) -> None:
    gone = [file for file in files(case.tree) if file.startswith(f"{case.history.directory()}/")]
    assert len(gone) > 6
    for file in gone:
        reset(case.root, {name: content for name, content in case.tree.items() if name != file})
        state, spared = case.history.newest.state, {Path(file).stem}
        if case.tree is case.history.newest.tree and file == case.history.journal:
            state = case.history.moments[-2][-1].state
        with opened(case.root) as kv:
            ns = kv.namespace(*SPACE)
            found = answers(ns)
            assert found.keys() >= KINDS.keys() - spared, f"without {file} only {sorted(found)}"
            assert not {*difference(found, state)} - spared, f"without {file} answers {difference(found, state)}"
            version = ns.version("value")
            assert ns.set("value", b"rescued") > version, f"without {file} versions begin again"
            with opened(case.root) as other:
                assert other.namespace(*SPACE).get("value") == b"rescued", f"without {file} a write is lost"
        with opened(case.root) as kv:
            assert kv.namespace(*SPACE).get("value") == b"rescued", f"without {file} a write is lost at close"
            assert kv.namespace(*NEIGHBOUR).get("k") == NEIGHBOURS


# What check() tells


def told(kv: FilesKV) -> list[str]:
    """Return the paths that `check` names, having looked at what it gives."""
    found = kv.check()
    assert isinstance(found, list)
    for error in found:
        assert isinstance(error, DamagedError)
        assert error.path in str(error)
        assert len(str(error)) > len(error.path) + 5, "no reason is given"
    return [error.path for error in found]


def test_a_whole_store_has_nothing_to_tell(case: Case) -> None:
    reset(case.root, case.tree)
    before = fingerprint(case.root)
    kv = opened(case.root)
    assert told(kv) == []
    assert fingerprint(case.root) == before
    kv.namespace(*SPACE).set("value", b"more")
    assert told(kv) == []
    kv.checkpoint()
    assert told(kv) == []
    kv.close()
    with opened(case.root) as kv:
        assert told(kv) == []


def test_a_store_that_is_not_there_yet_has_nothing_to_tell_and_is_not_made_for_it(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as kv:
        assert told(kv) == []
    assert not (tmp_path / "store").exists()
    kv = opened(tmp_path / "store")
    kv.close()
    with pytest.raises(ClosedError):
        kv.check()


def test_every_damaged_byte_is_told_and_nothing_is_changed(case: Case) -> None:
    def require(damage: Damage) -> None:
        before = read_tree(case.root)
        kv = opened(case.root)
        try:
            paths = told(kv)
            assert read_tree(case.root) == before
            assert set(paths) <= {str(case.root / damage.file)}
            # A last byte of the journal that becomes zero is one that was never written; and what the journal has
            # replaced since, or a crash has cut while it was replaced, needs not be looked at.
            needless = case.left(damage) is not None or (case.tree is case.history.newest.tree and paths == [])
            assert paths or (needless and answers(kv.namespace(*SPACE)) == case.history.newest.state)
        finally:
            close(kv)

    each(itertools.islice(flips(case.tree), 0, None, 1 if NIGHTLY else 3), case.root, case.tree, require)


def test_whatever_is_damaged_for_a_reader_is_told_by_check(case: Case) -> None:
    def require(damage: Damage) -> None:
        kv = opened(case.root)
        try:
            paths = told(kv)
            assert set(paths) <= {str(case.root / damage.file)}
            assert paths or answers(kv.namespace(*SPACE)).keys() == KINDS.keys()
        finally:
            close(kv)

    each(of_all_sorts(case.tree), case.root, case.tree, require)


def test_all_that_is_damaged_in_a_store_is_told_at_once(history: History, ram: Path) -> None:
    root = ram / "store"
    reset(root, history.newest.tree)
    with opened(root) as kv:
        kv.namespace("c").set("k", b"v")
        kv.namespace("d", "e").set("k", b"v")
        kv.namespace("d", "e").set("l", b"v")
    hurt = [history.document("quiet"), history.document("zset"), history.journal]
    hurt += [file for file in files(read_tree(root)) if file.endswith(("/k.json", "/l.json"))]
    assert len(hurt) == 3 + 1 + 1 + 2
    for file in hurt:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with opened(root) as kv:
        assert set(told(kv)) == {str(root / file) for file in hurt}
        close(kv)


# What does not belong to the store

FOREIGN: Final[dict[str, bytes | None]] = {
    "README.txt": b"do not touch",
    ".DS_Store": b"\0\0\0\1Bud1",
    "desktop.ini": b"[.ShellClassInfo]",
    "quiet.json~": b"an editor's backup",
    "quiet.json.bak": b"a backup",
    "quiet (1).json": None,
    "Quiet.json": None,
    "copy~of~quiet.json": None,
    "list.json": b"[1, 2]",
    "empty.json": b"",
    "package.json": b'{"name": "quiet", "version": "1.0"}',
    "\u00fcn\u00ef.json": b"{}",
    "no extension": b"x",
}
"""Files that others leave in a directory, by name; None: a copy of the document of `quiet`, when it was older."""


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_told_and_spared_and_disturbs_nobody(name: str, history: History, ram: Path) -> None:
    root, state = ram / "store", history.newest.state
    with opened(ram / "older") as kv:
        kv.namespace(*SPACE).set("quiet", b"older")
    (older,) = [content for file, content in files(read_tree(ram / "older")).items() if file.endswith("quiet.json")]
    content, file = FOREIGN[name] or older, f"{history.directory()}/{name}"
    if name == "empty.json":
        content = b""
    reset(root, history.settled, Damage("", file, content))
    with opened(root) as kv:
        ns = kv.namespace(*SPACE)
        assert answers(ns) == state
        keys, complete = listed(ns, root / file)
        assert sorted(keys) == present(state)
        assert complete or name.endswith(".json")
        ns.set("quiet", b"rescued")
        ns.delete("value")
        kv.checkpoint()
        keys, complete = listed(ns, root / file)
        assert sorted(keys) == sorted({*present(state)} - {"value"})
        assert ns.get("quiet") == b"rescued"
    assert (root / file).read_bytes() == content
    with opened(root) as kv:
        assert kv.namespace(*SPACE).get("quiet") == b"rescued"


@pytest.mark.parametrize("name", FOREIGN)
def test_check_names_a_foreign_file(name: str, history: History, ram: Path) -> None:
    root = ram / "store"
    file = f"{history.directory()}/{name}"
    reset(root, history.settled, Damage("", file, FOREIGN[name] or b"{}"))
    with opened(root) as kv:
        assert told(kv) == [str(root / file)]


def test_check_names_what_is_foreign_at_every_depth_of_the_store_but_not_beside_it(history: History, ram: Path) -> None:
    root, (prefix, space) = ram / "store", history.directory().split("/")
    reset(root, history.settled)
    # The documented directory of states, and databases, stand beside the store in the same root.
    for beside in ("state", f"{prefix}-2"):
        (root / beside).mkdir()
        (root / beside / "user.json").write_text("{}")
    (root / "patterns.db").write_bytes(b"SQLite format 3\0")
    with opened(root) as kv:
        assert told(kv) == []
        (root / prefix / "file").write_text("x")
        (root / prefix / space / "directory").mkdir()
        (root / prefix / space / "directory" / "quiet.json").write_text("{}")
        assert set(told(kv)) >= {str(root / prefix / "file"), str(root / prefix / space / "directory")}
        assert all(path.startswith(str(root / prefix)) for path in told(kv))
