"""The main job on the file store: learn patterns, work with users, close, open again in a new process."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from empathy_kv import CollaborationState, EmpathyOS, Pattern, PatternPersistence, Store, connect

KNOWN = Path(__file__).with_name("quickstart.json")
USERS = ("ada", "grace", "linus")
QUESTIONS = (
    ("How do I deploy to production?", {"task": "deployment", "tags": ["release"]}),
    ("The API call times out.", {"task": "api_call", "language": "python", "tags": ["error-handling"]}),
    ("Why is this query slow?", {"task": "database", "tags": ["performance"]}),
    ("The test fails now and then.", {"task": "testing", "language": "python", "tags": ["flaky"]}),
    ("Where do I put this secret?", {"task": "configuration", "tags": ["security"]}),
)


def generated(count: int) -> list[Pattern]:
    """Patterns of other trades, so that the library has a size."""
    dice = random.Random(7)
    return [
        Pattern(
            id=f"generated_{i}",
            agent_id="agent_3",
            pattern_type="generated",
            name=f"Generated {i}",
            context={"area": dice.randrange(50), "kind": dice.randrange(50), "scale": dice.randrange(50)},
            tags=[f"tag-{dice.randrange(200)}" for _ in range(3)],
            confidence=0.6,
        )
        for i in range(count)
    ]


def median(work: Callable[[], Any], times: int) -> float:
    """Microseconds that a call takes, in the middle of many."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def answer(text: str, _: Mapping[str, Any], pattern: Pattern | None) -> str:
    """What stands for a model here."""
    return f"{text} -> {pattern.code}" if pattern else f"{text} -> (asks a model)"


def work(url: str) -> None:
    dice = random.Random(1)
    with connect(url) as store:
        library = PatternPersistence.load_from_json(KNOWN)
        for agent_id, ids in library.agent_contributions.items():
            store.patterns.contribute_patterns(agent_id, [library.patterns[pattern_id] for pattern_id in ids])
        store.patterns.link_patterns("pat_rollout", "pat_rollback")
        store.patterns.contribute_patterns("agent_3", generated(2000))
        print(f"Learned {len(store.patterns.patterns)} patterns of {len(store.patterns.agent_contributions)} agents.\n")

        for number, user in enumerate(USERS):
            agent = EmpathyOS(user, target_level=4, pattern_library=store.patterns, responder=answer)
            for step in range(40):
                question, context = QUESTIONS[dice.randrange(len(QUESTIONS))]
                start = time.perf_counter()
                response = agent.interact(user, question, context)
                took = (time.perf_counter() - start) * 1000
                success = dice.random() < 0.95 - 0.1 * number
                agent.record_success(success)
                store.metrics.record_interaction(user, response.level, success, took)
                if number == 0 and step < 3:
                    print(f"{user}: {response.response}")
                    print(f"     confidence {response.confidence:.0%}, next maybe: {', '.join(response.predictions)}")
            store.states.save_state(user, agent.collaboration_state)
        print(f"... and {3 * 40 - 3} interactions more, of {len(USERS)} users.\n")

        context = QUESTIONS[1][1]
        costs = {
            "look up among 2,012 patterns": median(lambda: store.patterns.find_patterns(context), 300),
            "load a state": median(lambda: store.states.load_state("ada"), 300),
            "record an interaction, durably": median(
                lambda: store.metrics.record_interaction("ada", 3, True, 12.5), 100
            ),
            "save a state, durably": median(
                lambda: store.states.save_state("ada", store.states.load_state("ada")), 100
            ),
        }
        print("What it costs (median):")
        for name, cost in costs.items():
            print(f"  {name:32} {cost:7.0f} us")


def dashboard(store: Store) -> None:
    collector = store.metrics
    print("=== Metrics Dashboard ===\n")
    for user_id in collector.get_all_users():
        stats = collector.get_user_stats(user_id)
        state: CollaborationState = store.states.load_state(user_id)
        counts = [(level, stats.get(f"level_{level}_count", 0)) for level in range(1, 6)]
        most_used, times = max(counts, key=lambda item: item[1])
        print(f"User: {user_id}")
        print(f"  Total interactions: {stats['total_operations']}")
        print(f"  Success rate: {stats['success_rate']:.0%}")
        print(f"  Avg response time: {stats['avg_response_time_ms']:.2f}ms (p95 {stats['p95_response_time_ms']:.2f}ms)")
        print(f"  Current level: {stats['current_level']}, trust: {state.trust_level:.0%}")
        print(f"  Most used level: Level {most_used} ({times} times)")
        print()
    total = collector.get_global_stats()
    print("Global Statistics:")
    print(f"  Total users: {total['total_users']}")
    print(f"  Total interactions: {total['total_interactions']}")
    print(f"  Overall success rate: {total['success_rate']:.0%}")


def look(url: str) -> None:
    with connect(url) as store:
        print(f"\nA new process finds {len(store.patterns.patterns)} patterns,", end=" ")
        print(f"states of {', '.join(store.states.list_users())}, and what they did:\n")
        dashboard(store)
        best = store.patterns.get_top_patterns(3, sort_by="usage_count")
        print("\nMost used patterns:")
        for pattern in best:
            print(f"  {pattern.name}: {pattern.usage_count} times, {pattern.success_rate:.0%} of them well")


def main() -> None:
    if len(sys.argv) > 1:
        look(sys.argv[1])
        return
    scratch = Path(tempfile.mkdtemp(prefix="empathy-kv-"))
    url = f"file:{scratch / '.empathy'}"
    work(url)
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, url], check=True)
    print(
        f"""
What to try next:
  # a state, as it is kept
  cat {scratch}/.empathy/empathy/states/ada.json
  # look at the store again, in another process
  {sys.executable} {__file__} {url}
  # the tests, with a real Redis server
  scripts/test
README.md has the eight lines to begin with, and the stores that a URL can name."""
    )


if __name__ == "__main__":
    main()
