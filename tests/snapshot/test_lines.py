"""A stream that is not as it was written is refused, with the place, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import KINDS, Place, everything, fill, places

from empathy_kv import (
    ArgumentTypeError,
    CodecError,
    CollaborationState,
    Pattern,
    PatternLibrary,
    Store,
    UnfinishedError,
)
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.records import Interaction
from empathy_kv.snapshot import content, dump, restore

__all__ = ["places"]


def sample() -> list[bytes]:
    """Return the lines of a small store: the header, two patterns, a state, a user, the end."""
    store = Store(MemoryKV(), history_limit=2)
    library = PatternLibrary()
    library.contribute_patterns("agent", [Pattern("p1", "agent", "t", "n"), Pattern("p2", "agent", "t", "n")])
    library.link_patterns("p1", "p2")
    recorded = [Interaction("ada", 3, n > 0, 10.0 * n, id=f"i{n}" if n else None) for n in range(3)]
    fill(store, library, [CollaborationState("ada")], recorded)
    return list(dump(store))


LINES = sample()


def rewritten(lines: list[bytes], **counts: int) -> list[bytes]:
    """Return lines with an end that fits them, so that nothing but the lines themselves can be wrong."""
    end: dict[str, Any] = json.loads(LINES[-1])
    body = lines[:-1]
    end["end"] |= {**counts, "sha256": hashlib.sha256(b"".join(line + b"\n" for line in body)).hexdigest()}
    return [*body, json.dumps(end).encode()]


def changed(number: int, change: Callable[[Any], object]) -> list[bytes]:
    """Return the lines of which one (the first is 1) was changed by someone who also made the end fit."""
    line = json.loads(LINES[number - 1])
    change(line)
    return rewritten([*LINES[: number - 1], json.dumps(line).encode(), *LINES[number:]])


def test_the_sample_is_one_that_is_taken() -> None:
    assert [next(iter(json.loads(line))) for line in LINES] == [
        *("format", "pattern", "pattern", "state", "metrics", "interactions", "end")
    ]
    assert content(rewritten(LINES)) == content(LINES)
    assert restore(Store(MemoryKV()), rewritten(LINES)).interactions == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_was_cut_anywhere_changes_nothing(kind: str, places: Callable[[str], Place]) -> None:
    store = places(kind).open()
    fill(store, states=[CollaborationState("before")])
    before = everything(store)
    for end in range(len(LINES)):
        with pytest.raises(CodecError, match="cut") as caught:
            restore(store, LINES[:end], replace=True)
        assert caught.value.path == "$.end"
    half = [*LINES[:3], LINES[3][: len(LINES[3]) // 2]]
    with pytest.raises(CodecError, match="line 4 of the snapshot: expected JSON"):
        restore(store, half, replace=True)
    for missing in range(1, len(LINES) - 1):
        with pytest.raises(CodecError):
            restore(store, LINES[:missing] + LINES[missing + 1 :], replace=True)
    assert everything(store) == before


@given(st.data())
def test_a_changed_byte_anywhere_is_found(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LINES) - 1))
    line = bytearray(LINES[number])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    lines = [*LINES[:number], bytes(line), *LINES[number + 1 :]]
    store = Store(MemoryKV())
    with pytest.raises(CodecError):
        restore(store, lines)
    assert everything(store) == everything(Store(MemoryKV()))


@pytest.mark.parametrize(
    ("number", "change", "path"),
    [
        (1, lambda line: line.update(format="other"), "$.format"),
        (1, lambda line: line.update(version=2), "$.version"),
        (2, lambda line: line.update(unknown=1), "$"),
        (2, lambda line: line.pop("agent"), "$"),
        (2, lambda line: line.update(agent=""), "$.agent"),
        (2, lambda line: line.update(agent=1), "$.agent"),
        (2, lambda line: line["pattern"].update(confidence=2.0), "$.pattern.confidence"),
        (2, lambda line: line["pattern"].update(id="x" * 513), "$.pattern.id"),
        (2, lambda line: line.update(links=["p2"]), "$.links[0]"),
        (3, lambda line: line.update(links=["p2"]), "$.links[0]"),
        (3, lambda line: line["pattern"].update(id="p1"), "$.pattern.id"),
        (4, lambda line: line["state"].update(trust_level="high"), "$.state.trust_level"),
        (4, lambda line: line["state"].update(user_id=""), "$.state.user_id"),
        (4, lambda line: line.update(agent="a"), "$"),
        (5, lambda line: line["metrics"].update(user_id=""), "$.metrics.user_id"),
        (5, lambda line: line["metrics"].update(operations=-1), "$.metrics.operations"),
        (5, lambda line: line["metrics"].update(operations=2**63), "$.metrics.operations"),
        (5, lambda line: line["metrics"].update(successes=4), "$.metrics"),
        (5, lambda line: line["metrics"].update(operations=1), "$.metrics"),
        (5, lambda line: line["metrics"].update(interactions=3), "$"),
        (5, lambda line: line["metrics"].update(interactions=1), "$.interactions"),
        (5, lambda line: line["metrics"].update(levels={"03": 3}), "$.metrics.levels"),
        (5, lambda line: line["metrics"].update(levels={"4": 3}), "$"),
        (5, lambda line: line["metrics"].update(days={"2025-1-1": 3}), "$.metrics.days"),
        (5, lambda line: line["metrics"].update(first=None), "$.metrics.first"),
        (5, lambda line: line["metrics"].update(first=10**17), "$.metrics.first"),
        (5, lambda line: line["metrics"].update(histogram={}), "$"),
        (6, lambda line: line.update(of="grace"), "$.of"),
        (6, lambda line: line["interactions"].reverse(), "$.interactions[1][0]"),
        (6, lambda line: line["interactions"][0].__setitem__(0, -(10**17)), "$.interactions[0][0]"),
        (6, lambda line: line["interactions"][1].__setitem__(2, 1), "$.interactions[1][2]"),
        (6, lambda line: line["interactions"][1].__setitem__(3, 1e13), "$.interactions[1][3]"),
        (6, lambda line: line["interactions"][1].__setitem__(4, "i1"), "$.interactions[1][4]"),
        (6, lambda line: line["interactions"][1].__setitem__(4, ""), "$.interactions[1][4]"),
        (6, lambda line: line["interactions"][1].pop(), "$.interactions[1]"),
    ],
)
def test_a_line_that_somebody_made_up_is_refused_with_its_place(
    number: int, change: Callable[[Any], object], path: str
) -> None:
    store = Store(MemoryKV())
    with pytest.raises(CodecError) as caught:
        restore(store, changed(number, change))
    assert caught.value.path == path, caught.value
    assert str(caught.value).endswith(f" @ {path}")
    # What is missing is known only where it should have come.
    assert number <= caught.value.line <= len(LINES)
    assert store.states.list_users() == []


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{}", b"[]", b"null", b"NaN", b"\xff", b"[" * 100_000, b'{"end": {}}', b'{"ids": [], "of": "ada"}'),
        *(b'{"pattern": 1, "agent": "a"}', b'{"state": ' + b'{"a":' * 2_000 + b"1" + b"}" * 2_000 + b"}"),
    ],
)
def test_a_line_of_anything_is_refused(line: bytes) -> None:
    store = Store(MemoryKV())
    with pytest.raises(CodecError) as caught:
        restore(store, rewritten([*LINES[:4], line, *LINES[4:]]))
    assert caught.value.line == 5
    assert store.states.list_users() == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_with_a_line_in_each_line_is_taken(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    with path.open("wb") as file:
        file.writelines(line + end for line in LINES)
    store = Store(MemoryKV(), history_limit=2)
    with path.open("rb") as file:
        assert restore(store, file).interactions == 2
    with path.open("rb") as file:
        assert content(file) == content(dump(store)) == content(LINES)


def test_only_one_end_of_a_line_is_none_of_it() -> None:
    for end in (b"\n\n", b"\r", b"\n\r\n", b" \n"):
        with pytest.raises(CodecError, match="checksum"):
            restore(Store(MemoryKV()), [LINES[0] + end, *LINES[1:]])


def test_a_file_whose_lines_were_written_without_their_end_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    with path.open("wb") as file:
        file.writelines(LINES)
    with path.open("rb") as file, pytest.raises(CodecError, match=r"line 1 .* expected a newline behind it"):
        restore(Store(MemoryKV()), file)


def test_lines_that_are_text_are_refused_before_they_are_looked_at() -> None:
    texts: Any = [line.decode() for line in LINES]
    for take in (content, lambda lines: restore(Store(MemoryKV()), lines)):
        with pytest.raises(ArgumentTypeError, match="lines must be bytes, as of a file that was opened with 'rb'"):
            take(texts)  # type: ignore[no-untyped-call]


def test_counts_that_do_not_fit_are_refused_and_so_is_what_follows_the_end() -> None:
    for name in ("patterns", "states", "users", "interactions"):
        with pytest.raises(CodecError, match="counts"):
            restore(Store(MemoryKV()), rewritten(LINES, **{name: 7}))
    with pytest.raises(CodecError, match="after the last line"):
        restore(Store(MemoryKV()), [*LINES, LINES[1]])


@pytest.mark.parametrize("kind", ["memory", "files", "fakeredis", "redis"])
def test_a_restore_that_was_interrupted_is_told_until_it_is_done(
    kind: str, places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    import empathy_kv.shared_snapshot as shared

    place = places(kind)
    store = place.open()
    with monkeypatch.context() as patched:

        def fails(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(shared._Filling, "_interactions", fails)
        with pytest.raises(KeyboardInterrupt):
            restore(store, LINES)
    for use in (store, place.open()):
        for call in (
            lambda use=use: use.patterns.get_pattern("p1"),
            lambda use=use: use.states.save_state("ada", CollaborationState()),
            lambda use=use: use.metrics.get_global_stats(),
            lambda use=use: use.metrics.record_interaction("ada", 3, True, 1.0),
            lambda use=use: list(dump(use)),
        ):
            with pytest.raises(UnfinishedError, match="run it again"):
                call()
    assert restore(place.open(), LINES).patterns == 2
    assert content(dump(store)) == content(LINES)
    assert place.open().metrics.get_user_stats("ada")["total_operations"] == 3


async def _told(url: str) -> None:
    from empathy_kv import connect_async

    async with await connect_async(url) as store:
        with pytest.raises(UnfinishedError):
            await store.states.list_users()


def test_whoever_opens_it_in_an_event_loop_is_told_too(places: Callable[[str], Place]) -> None:
    import asyncio

    place = places("files")
    place.open().kv.namespace("store").set("restore", b"x")
    asyncio.run(_told(place.url))
