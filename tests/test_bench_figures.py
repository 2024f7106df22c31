"""The arithmetic of the benchmark is right: rounds, ratios, marks, and the figures that the README quotes."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "benchmark"))

import growth
import harness
import report
import results
from harness import Contender, Figure, Goal, Job, Promise, Room

# Rounds


def contender(name: str, samples: Sequence[Sequence[float]], log: list[str], **options: Any) -> Contender:
    def turns(room: Room) -> Iterator[Sequence[float]]:
        assert room.own.is_dir()
        log.append(f"{name} begins")
        try:
            for number in itertools.count():
                log.append(name)
                yield samples[number]
        finally:
            log.append(f"{name} ends")

    return Contender(name, turns, **options)


def test_contenders_take_turns_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    log: list[str] = []
    rows = [contender(name, [[9e-3], [1e-6], [2e-6], [3e-6]], log) for name in "abc"]
    figures = harness.measure(Job("j", "a job", "us", 3, rows), tmp_path)
    turns = [entry for entry in log if len(entry) == 1]
    rounds = [turns[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert {entry for entry in log if "ends" in entry} == {"a ends", "b ends", "c ends"}
    assert [figure.rounds for figure in figures] == [[[1.0], [2.0], [3.0]]] * 3
    assert len(list((tmp_path / "j").iterdir())) == 3  # What is removed while others are measured slows them down.


def test_a_ratio_is_that_of_the_rounds_and_not_of_the_medians(tmp_path: Path) -> None:
    # On a machine that gets slower the one takes twice as long as the other, but for one slow moment.
    slow = contender("slow", [[0.0], [2.0], [200.0], [200.0]], [], beside="fast", goals=[Goal(2.0, "fast")])
    fast = contender("fast", [[0.0], [1.0], [10.0], [100.0]], [])
    figures = harness.measure(Job("j", "a job", "puts/s", 3, [slow, fast]), tmp_path)
    item = report.plain(figures)[0]
    assert (item["median"], item["ratio"]) == (200.0, 2.0)
    assert item["goals"] == [{"limit": 2.0, "of": "fast", "reach": False, "value": 2.0, "met": True}]


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(5.1), "<= 5.1 us: met (5.00)"),
        (Goal(4.9), "<= 4.9 us: NOT MET (5.00)"),
        (Goal(1 / 6, "other"), "<= 0.167 x other: NOT MET (0.50)"),
        (Goal(0.5, "other"), "<= 0.5 x other: met (0.50)"),
        (Goal(0.6, "other", reach=True), ">= 0.6 x other: NOT MET (0.50)"),
        (Goal(1.0, "absent"), "<= 1 x absent: not measured"),
        (Goal(1.0, "failed"), "<= 1 x failed: not measured"),
    ],
)
def test_a_goal_stands_beside_its_figure(goal: Goal, text: str, tmp_path: Path) -> None:
    log: list[str] = []
    rows = [
        contender("mine", [[], [5e-6], [5e-6]], log, goals=[goal]),
        contender("other", [[], [10e-6], [10e-6]], log),
        contender("failed", [[]], log),
    ]
    items = report.plain(harness.measure(Job("j", "a job", "us", 2, rows), tmp_path))
    table = report.table(items)
    assert f"{text} " in table
    assert "failed" in table.splitlines()[-1]
    assert "IndexError" in table.splitlines()[-1]


# The time that there is


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taking(clock: Clock, seconds: float) -> Contender:
    def turns(_: Room) -> Iterator[Sequence[float]]:
        while True:
            clock.now += seconds
            yield [seconds]

    return Contender(f"of {seconds}", turns)


@pytest.mark.parametrize(
    ("seconds", "least", "turn", "rounds"),
    [
        (10.0, 5, 0.5, 10),
        (1.0, 5, 0.5, 5),
        (1.0, 3, 0.5, 3),
        (1000.0, 5, 0.5, 40),
        (1.0, 5, 6.0, 3),  # Rounds of more than ten seconds.
        (1.0, 1, 6.0, 1),
    ],
)
def test_a_job_ends_with_its_time_but_not_before_a_few_rounds(
    seconds: float, least: int, turn: float, rounds: int, tmp_path: Path
) -> None:
    clock = Clock()
    job = Job("j", "a job", "ms", 40, [taking(clock, turn), taking(clock, turn)])
    figures = harness.measure(job, tmp_path, seconds=seconds, least=least, clock=clock)
    assert [len(figure.rounds) for figure in figures] == [rounds, rounds]


def test_setting_up_takes_no_round_from_a_job(tmp_path: Path) -> None:
    clock = Clock()

    def turns(_: Room) -> Iterator[Sequence[float]]:
        clock.now += 1000.0
        while True:
            clock.now += 1.0
            yield [1.0]

    (figure,) = harness.measure(
        Job("j", "a job", "ms", 40, [Contender("a", turns)]), tmp_path, seconds=7.0, clock=clock
    )
    assert len(figure.rounds) == 7


def test_what_a_job_does_not_need_the_later_ones_have() -> None:
    clock = Clock()
    given = []
    for allowed in harness.allowances([1.0, 1.0, 2.0], 40.0, clock):
        given.append(allowed)
        clock.now += allowed / 2
    assert given == [10.0, 35 / 3, pytest.approx(40 - 5 - 35 / 6)]


def test_garbage_is_collected_before_a_turn_and_not_in_it(tmp_path: Path) -> None:
    collected: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        collected.append(phase)

    def turns(_: Room) -> Iterator[Sequence[float]]:
        while True:
            before = len(collected)
            samples = harness.timed(lambda: [[] for _ in range(10_000)], [()])
            assert len(collected) == before
            yield samples

    gc.callbacks.append(note)
    try:
        (figure,) = harness.measure(Job("j", "a job", "us", 3, [Contender("a", turns)]), tmp_path)
    finally:
        gc.callbacks.remove(note)
    assert figure.error is None
    assert collected.count("start") >= 4
    assert gc.get_freeze_count() == 0


# What is compared

DURABLE: Final = Promise(2, "all")
WEAK: Final = Promise(0, "nothing")


def rows_of(*contenders: tuple[str, float, dict[str, Any]], unit: str = "us") -> dict[str, dict[str, Any]]:
    """Return what is reported of rows that each took so many units in both of two rounds."""
    job = Job("family/job", "a job", unit, 2, ())
    figures = []
    for name, took, options in contenders:
        figure = Figure(job, Contender(name, lambda _: iter(()), **options))
        figure.rounds = [[took], [took]]
        figures.append(figure)
    return {report.named(item): item for item in report.plain(figures)}


def test_the_best_peer_is_the_fastest_that_promises_as_much_as_this_package() -> None:
    rows = rows_of(
        ("empathy_kv", 6.0, {"survives": DURABLE}),
        ("slow", 12.0, {"survives": DURABLE}),
        ("good", 4.0, {"survives": DURABLE}),
        ("weak", 1.0, {"survives": WEAK}),
        ("sketch", 2.0, {"survives": DURABLE, "role": "mark"}),
        ("least", 0.5, {"survives": DURABLE, "role": "floor"}),
    )
    assert {row["best_peer"] for row in rows.values()} == {"good"}
    assert (rows["empathy_kv"]["to_best_peer"], rows["good"]["to_best_peer"]) == (1.5, 1.0)
    assert {row["floor"] for row in rows.values()} == {"least"}
    assert rows["empathy_kv"]["to_floor"] == 12.0
    assert [rows[name]["role"] for name in ("empathy_kv", "good", "least")] == ["ours", "peer", "floor"]


def test_the_best_peer_is_the_one_that_a_row_compares_worst_with_round_by_round() -> None:
    # "steady" has the better median, of the three rounds in which "fast" was fast only one.
    job = Job("j", "a job", "us", 3, ())
    figures = [Figure(job, Contender(name, lambda _: iter(()))) for name in ("empathy_kv", "steady", "fast")]
    for figure, rounds in zip(figures, ([6.0, 60.0, 600.0], [3.0, 30.0, 300.0], [2.0, 40.0, 200.0]), strict=True):
        figure.rounds = [[took] for took in rounds]
    ours, steady, fast = report.plain(figures)
    assert steady["median"] < fast["median"]
    assert (ours["best_peer"], ours["to_best_peer"]) == ("fast", 3.0)
    assert (steady["best_peer"], steady["to_best_peer"]) == ("fast", 1.5)
    assert (fast["best_peer"], fast["to_best_peer"]) == ("fast", 1.0)


def test_the_reference_is_shown_and_is_the_best_peer_only_where_there_is_no_other() -> None:
    reference = ("reference", 1.0, {"role": "reference", "survives": WEAK})
    rows = rows_of(("empathy_kv", 6.0, {"survives": DURABLE}), ("peer", 3.0, {"survives": DURABLE}), reference)
    assert (rows["empathy_kv"]["best_peer"], rows["empathy_kv"]["to_best_peer"]) == ("peer", 2.0)
    assert (rows["empathy_kv"]["reference"], rows["empathy_kv"]["to_reference"]) == ("reference", 6.0)
    assert rows["peer"]["reference"] is None
    rows = rows_of(("empathy_kv", 6.0, {"survives": DURABLE}), ("peer", 3.0, {"survives": WEAK}), reference)
    assert (rows["empathy_kv"]["best_peer"], rows["empathy_kv"]["to_best_peer"]) == ("reference", 6.0)


def test_rows_are_compared_with_those_that_do_the_same_work() -> None:
    rows = rows_of(
        ("empathy_kv", 6.0, {"way": "1", "among": "1"}),
        ("empathy_kv", 9.0, {"way": "2", "among": "2"}),
        ("other", 3.0, {"way": "1", "among": "1"}),
        ("other", 18.0, {"way": "2", "among": "2"}),
    )
    assert rows["empathy_kv, 1"]["to_best_peer"] == 2.0
    assert rows["empathy_kv, 2"]["to_best_peer"] == 0.5
    assert rows["empathy_kv, 2"]["to_floor"] is None


def test_of_a_rate_the_best_is_the_highest() -> None:
    rows = rows_of(("empathy_kv", 6.0, {}), ("low", 2.0, {}), ("high", 4.0, {}), unit=harness.RATE)
    assert (rows["empathy_kv"]["best_peer"], rows["empathy_kv"]["to_best_peer"]) == ("high", 1.5)


def test_what_failed_is_compared_with_nothing() -> None:
    job = Job("j", "a job", "us", 1, ())
    figures = [Figure(job, Contender(name, lambda _: iter(()))) for name in ("empathy_kv", "broken", "slow")]
    for figure, took in zip(figures, (4.0, 1.0, 8.0), strict=True):
        figure.rounds = [[took]]
    figures[1].error = "ValueError: broken"
    ours, broken, slow = report.plain(figures)
    assert (ours["best_peer"], ours["to_best_peer"], slow["to_best_peer"]) == ("slow", 0.5, 1.0)
    assert broken["error"] == "ValueError: broken"
    assert "median" not in broken


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (99.94, "99.9"), (5.0, "5.00"), (0.1667, "0.17"), (0.0123, "0.012"), (0.0, "0")],
)
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert report.number(value) == text


def test_the_99th_percentile_is_of_all_samples_if_they_are_many() -> None:
    figure = Figure(Job("j", "a job", "us", 2, ()), Contender("a", lambda _: iter(())))
    figure.rounds = [[float(number) for number in range(50)], [float(number) for number in range(50, 100)]]
    assert figure.p99 == 99.0
    figure.rounds[1].pop()
    assert figure.p99 is None


def test_it_is_timed_without_garbage_collection() -> None:
    seen: list[bool] = []
    assert gc.isenabled()
    samples = harness.timed(lambda value: seen.append(gc.isenabled() or value), [(False,), (False,)])
    assert seen == [False, False]
    assert gc.isenabled()
    assert len(samples) == 2
    assert all(sample > 0 for sample in samples)


# Growth


def grown(call: str, *medians: float) -> list[Figure]:
    job = Job(f"growth/memory/{call}", call, "us", 1, ())
    figures = []
    for count, median in zip((1_000, 10_000, 100_000), medians, strict=True):
        figure = Figure(job, Contender("memory", lambda _: iter(()), f"{count:,}"))
        figure.rounds = [[median]]
        figures.append(figure)
    return figures


@pytest.mark.parametrize(
    ("call", "last", "grows"),
    [
        *(("put", 19.0, False), ("put", 21.0, True), ("find_patterns", 99.0, False), ("find_patterns", 101.0, True)),
        ("first find_patterns", 10_000.0, False),
    ],
)
def test_what_grows_more_than_it_may_is_marked(call: str, last: float, grows: bool) -> None:
    figures = grown(call, 10.0, 50.0, last)
    assert growth.grown(figures) == grows
    (row,) = cells(growth.table(figures))
    assert (row["at 1,000"], row["last / first"]) == ("10.0 / 10.0", report.number(last / 10))
    assert row["of the means"] == row["last / first"]
    assert row[""] == ("GROWS" if grows else "")


# What is kept of a run


def agrees_with_itself(page: str) -> None:
    """See that each figure that a page of results quotes stands in its table of all, too."""
    whole = {(row["job"], row["store"]): row for row in cells(page.partition("## Everything")[2])}
    short = cells(results.quoted(page))
    assert short
    for row in short:
        job = max((title for title, _ in whole if row["job"].startswith(title)), key=len)
        way = row["job"].removeprefix(job)
        ours, other = whole[job, f"empathy_kv{way}"], whole[job, row["best of the others"]]
        assert (ours["median"], other["median"]) == (row["empathy_kv"], row["its median"])
        assert (ours["unit"], ours["x best peer"], ours["x floor"]) == (row["unit"], row["ratio"], row["x floor"])
        assert ours["survives"] == row["survives"]


def cells(page: str) -> list[dict[str, str]]:
    """Return the rows of the table in a page by the names of its columns; a job stands in the first of its rows."""
    lines = [line[2:-2] for line in page.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    found = [dict(zip(head, row, strict=True)) for row in rows]
    for row, before in zip(found[1:], found, strict=False):
        if row.get("job") == "":
            row["job"] = before["job"]
    return found


def test_the_last_results_agree_with_themselves() -> None:
    agrees_with_itself(results.FILE.read_text(encoding="utf-8"))


def test_the_readme_quotes_the_last_results() -> None:
    assert results.quoted(results.README.read_text(encoding="utf-8")) == results.quoted(
        results.FILE.read_text(encoding="utf-8")
    )


def item(job: str, store: str, ratio: float | None, **others: Any) -> dict[str, Any]:
    common = {"title": job.upper(), "way": "", "survives": None, "median": 1.0, "unit": "us", "best_peer": "peer"}
    return {"job": job, "store": store, "to_best_peer": ratio, "to_floor": None, "goals": [], **common, **others}


def test_of_each_job_the_row_is_quoted_that_compares_worst() -> None:
    own = "empathy_kv, class of one's own"
    items = [
        item("files/list", "empathy_kv", 2.0, way="once read"),
        item("files/list", "empathy_kv", 3.0, way="just written"),
        item("files/list", "empathy_kv, bytes", 9.0),
        item("files/list", "peer", 1.0),
        item("files/get", "empathy_kv", 2.0),
        item("files/get", own, 4.0),
        item("files/get", "peer", 1.0),
        item("files/processes", "empathy_kv", 0.5, way="4 processes", unit=harness.RATE),
        item("files/processes", "empathy_kv", 0.7, way="1 process", unit=harness.RATE),
        item("files/processes", "peer", 1.0, unit=harness.RATE),
        item("memory/list", "empathy_kv", 1.0),
        item("memory/list", own, 5.0),
        item("memory/list", "peer", 1.0),
        item("start/import", "empathy_kv", None),
    ]
    assert {row["job"]: row["ratio"] for row in cells(results.summary(items))} == {
        "FILES/LIST, just written": "3.00",
        "FILES/GET": "2.00",
        "FILES/GET, class of one's own": "4.00",
        "FILES/PROCESSES, 4 processes": "0.50",
        "MEMORY/LIST, class of one's own": "5.00",
    }


def test_under_the_figures_stands_how_many_goals_are_met_and_which_are_not() -> None:
    def goal(limit: float, value: float | None, of: str | None = None) -> dict[str, Any]:
        met = None if value is None else value <= limit
        return {"limit": limit, "of": of, "reach": False, "value": value, "met": met}

    met = item("files/get", "empathy_kv", 1.0, goals=[goal(2.0, 1.0), goal(1.0, None, "absent")])
    missed = item("files/put", "empathy_kv", 1.0, way="once", goals=[goal(1.3, 1.86, "lmdb"), goal(8.0, 12.2)])
    assert results.goals([met]) == "1 of 1 goals are met."
    assert results.goals([met, missed]) == (
        "1 of 3 goals are met; those that are not, with what they should be: "
        "files/put, once 1.86 x lmdb (1.3) and 12.2 us (8)."
    )


def test_a_page_that_quotes_no_figures_or_twice_is_refused() -> None:
    block = results.BEGIN + "| a |\n" + results.END
    assert results.quoted(f"one\n{block}two") == "| a |\n"
    assert results.requoted(f"one\n{block}two", "| b |\n") == f"one\n{results.BEGIN}| b |\n{results.END}two"
    empty = results.BEGIN + results.END
    assert results.requoted(f"one\n{empty}two", "| a |\n") == f"one\n{block}two"
    for page in ("nothing", block + block):
        with pytest.raises(ValueError, match="once"):
            results.quoted(page)
