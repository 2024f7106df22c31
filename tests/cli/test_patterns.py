"""`empathy-kv patterns`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from calling import Command

from empathy_kv import Pattern, PatternPersistence, Store


def pattern(name: str, **fields: Any) -> Pattern:
    return Pattern(name, "agent_1", fields.pop("type", "t"), name.title(), confidence=0.9, **fields)


@pytest.fixture(autouse=True)
def known(store: Store) -> None:
    store.patterns.contribute_pattern("agent_1", pattern("one", context={"task": "api", "n": 1}, tags=["a", "b"]))
    store.patterns.contribute_pattern("agent_2", pattern("two", context={"task": "api", "n": 2}, type="u"))
    store.patterns.link_patterns("one", "two")
    for _ in range(4):
        store.patterns.record_pattern_outcome("two", success=True)


def test_a_list_is_a_table_for_people_and_documents_for_programs(command: Command) -> None:
    done = command("patterns", "list")
    header, one, two = done.out.splitlines()
    assert header.split() == ["ID", "NAME", "TYPE", "AGENT", "CONFIDENCE", "USED", "SUCCESS", "TAGS"]
    assert one.split() == ["one", "One", "t", "agent_1", "90%", "0", "-", "a", "b"]
    assert two.split() == ["two", "Two", "u", "agent_1", "90%", "4", "100%"]
    assert (done.status, done.err) == (0, "2 patterns\n")
    documents = json.loads(command("patterns", "list", "--json").out)
    assert [document["id"] for document in documents] == ["one", "two"]
    assert documents[1]["usage_count"] == 4


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--type", "u"], ["two"]),
        (["--agent", "agent_2"], ["two"]),
        (["--agent", "nobody"], []),
        (["--sort", "usage_count"], ["two", "one"]),
        (["--limit", "1"], ["one"]),
        (["--sort", "usage_count", "-n", "1"], ["two"]),
    ],
)
def test_a_list_can_be_narrowed_and_sorted(options: list[str], ids: list[str], command: Command) -> None:
    assert [document["id"] for document in json.loads(command("patterns", "list", "--json", *options).out)] == ids


def test_a_list_says_how_many_it_does_not_show(command: Command) -> None:
    assert command("patterns", "list", "-n", "1").err == "2 patterns, 1 shown\n"


def test_a_pattern_is_shown_with_what_it_is_linked_to(command: Command) -> None:
    shown = json.loads(command("patterns", "show", "one", "--json").out)
    assert (shown["context"], shown["related"]) == ({"task": "api", "n": 1}, ["two"])
    assert 'context        {"task":"api","n":1}' in command("patterns", "show", "one").out.splitlines()


def test_a_situation_finds_the_best_first_and_values_may_be_json(command: Command) -> None:
    found = json.loads(command("patterns", "find", "task=api", "n=1", "--tag", "a", "--json").out)
    assert [(match["pattern"]["id"], round(match["relevance"], 3)) for match in found] == [("one", 0.65), ("two", 0.45)]
    assert found[0]["matching_factors"] == ["2 context matches", "1 tag matches"]
    table = command("patterns", "find", "task=api", "n=1", "-t", "a")
    assert [line.split()[:2] for line in table.out.splitlines()[1:]] == [["65%", "one"], ["45%", "two"]]
    assert command("patterns", "find", "task=other").err == "0 matches\n"


def test_a_pattern_is_added_from_a_file_or_from_standard_input(command: Command, store: Store, tmp_path: Path) -> None:
    document = {"id": "three", "agent_id": "a3", "pattern_type": "t", "name": "Three"}
    (tmp_path / "three.json").write_text(json.dumps(document))
    assert command("patterns", "add", "three.json").status == 0
    other = json.dumps({**document, "id": "4"}).encode()
    assert command("patterns", "add", "-", "--agent", "b", stdin=other).status == 0
    assert store.patterns.agent_contributions == {"agent_1": ["one"], "agent_2": ["two"], "a3": ["three"], "b": ["4"]}
    again = command("patterns", "add", "three.json")
    assert (again.status, again.out) == (1, "")
    assert again.err.startswith("empathy-kv: a pattern with the id 'three' is in the library")


def test_what_is_no_pattern_is_refused_with_its_place(command: Command, store: Store) -> None:
    done = command("patterns", "add", "-", stdin=b'{"id": "x", "agent_id": "a", "pattern_type": "t", "name": 5}')
    assert (done.status, done.err) == (1, "empathy-kv: -: expected str @ $.name\n")
    assert len(store.patterns.patterns) == 2


def test_removing_asks_and_no_answer_is_no(command: Command, store: Store) -> None:
    assert command("patterns", "remove", "one", answer="n\n").err == (
        "Remove 1 pattern? [y/N] empathy-kv: nothing was changed\n"
    )
    assert command("patterns", "remove", "one", answer="").status == 1
    assert command("patterns", "remove", "one").status == 2  # Nobody can be asked.
    assert command("patterns", "remove", "one", "--dry-run").err == "would remove 1 pattern\n"
    assert len(store.patterns.patterns) == 2
    assert command("patterns", "remove", "one", answer="y\n").status == 0
    assert list(store.patterns.patterns) == ["two"]


def test_removing_what_is_not_there_removes_nothing(command: Command, store: Store) -> None:
    done = command("patterns", "remove", "one", "nope", "--yes")
    assert (done.status, done.err) == (1, "empathy-kv: no pattern has the id 'nope'\n")
    assert len(store.patterns.patterns) == 2


@pytest.mark.parametrize("file", ["library.json", "library.db"])
def test_an_export_imported_elsewhere_is_the_same_library(file: str, command: Command, store: Store) -> None:
    assert command("patterns", "export", file).err == f"wrote 2 patterns to {file}\n"
    for _ in range(2):  # A second time changes nothing.
        assert command("patterns", "import", file, "--store", "file:other").status == 0
    for name in ("a.json", "b.json"):
        command("patterns", "export", name, "--store", "file:other" if name == "b.json" else "file:store")
    one, other = (PatternPersistence.load_from_json(name) for name in ("a.json", "b.json"))
    assert dict(one.patterns) == dict(other.patterns) == dict(store.patterns.patterns)
    assert one.agent_contributions == other.agent_contributions
    assert one.get_links() == other.get_links() == [("one", "two")]


def test_an_import_over_other_patterns_has_to_say_what_becomes_of_them(command: Command, store: Store) -> None:
    command("patterns", "export", "library.json")
    document = json.loads(Path("library.json").read_text())
    document["patterns"] = [{**each, "name": "Better"} for each in document["patterns"] if each["id"] == "one"]
    document["agent_contributions"] = {each["agent_id"]: [each["id"]] for each in document["patterns"]}
    Path("library.json").write_text(json.dumps(document))
    store.patterns.record_pattern_outcome("one", success=False)
    before = dict(store.patterns.patterns)
    refused = command("patterns", "import", "library.json")
    assert refused.status == 1
    assert "1 id taken by other patterns, as 'one': say --existing keep or replace" in refused.err
    assert command("patterns", "import", "library.json", "--existing", "keep").status == 0
    assert command("patterns", "import", "library.json", "--existing", "replace", answer="no\n").status == 1
    assert command("patterns", "import", "library.json", "--existing", "replace", "--dry-run").status == 0
    assert dict(store.patterns.patterns) == before
    assert command("patterns", "import", "library.json", "--existing", "replace", "--yes").status == 0
    assert dict(store.patterns.patterns) == {**before, "one": evolve(before["one"], name="Better")}
    assert list(store.patterns.patterns) == ["one", "two"]
    assert [other.id for other in store.patterns.get_related_patterns("one")] == ["two"]


def test_an_export_asks_before_it_replaces_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text("mine")
    assert command("patterns", "export", "library.json").status == 2
    assert (tmp_path / "library.json").read_text() == "mine"
    assert command("patterns", "export", "library.json", "-y").status == 0


def test_a_tag_alone_is_something_to_look_for(command: Command) -> None:
    found = json.loads(command("patterns", "find", "--tag", "a", "--tag", "b", "--json").out)
    assert [match["pattern"]["id"] for match in found] == []  # Tags are 0.3 at most, and above 0.3 is a match.
    assert command("patterns", "find", "--tag", "a").status == 0


def test_a_field_that_patterns_do_not_have_is_kept_and_told(command: Command, store: Store) -> None:
    document = {"id": "x", "agent_id": "a", "pattern_type": "t", "name": "X"}
    told = command("patterns", "add", "-", stdin=json.dumps({**document, "tag": ["a"]}).encode())
    assert (told.status, told.err) == (
        0,
        "added x\nkept 1 field that patterns do not have: tag (did you mean tags?)\n",
    )
    added = store.patterns.get_pattern("x")
    assert added is not None
    assert (added.tags, added.extra) == ([], {"tag": ["a"]})
    document |= {"id": "y", "Confidence": 0.9, "\x1b[2J": 1, "owner": "me"}
    told = command("patterns", "add", "-", stdin=json.dumps(document).encode())
    assert told.err == (
        "added y\nkept 3 fields that patterns do not have: Confidence (did you mean confidence?), \\x1b[2J, owner\n"
    )
