"""What every test can use, and what every run tells at its end."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from groups import Cluster, SentinelGroup, cluster, sentinel_group
from hypothesis import HealthCheck, settings
from servers import PostgresServer, RedisServer, RestrictedServer, find_postgres, find_redis

# No deadline: a shared machine that pauses for a moment is not a bug. Every value is named, because hypothesis
# derives other defaults when it believes to run under CI (the same examples each time, for one).
for name, examples, steps in (("fast", 15, 20), ("default", 100, 50), ("nightly", 2000, 100)):
    settings.register_profile(
        name,
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
PROFILE = os.environ.get("EMPATHY_KV_PROFILE") or "default"
settings.load_profile(PROFILE)

# What a shell runs in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run. What a test finds in it is left by others: `redis_server.flush()`."""
    if find_redis() is None:
        pytest.skip("no redis-server or valkey-server here (scripts/test brings one)")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_restricted() -> Iterator[RestrictedServer]:
    """A server on which nobody may do more than the README says is needed."""
    if find_redis() is None:
        pytest.skip("no redis-server or valkey-server here (scripts/test brings one)")
    with RestrictedServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """Three masters and three replicas for the whole run."""
    if find_redis() is None:
        pytest.skip("no redis-server or valkey-server here (scripts/test brings one)")
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[SentinelGroup]:
    """A master, a replica and three sentinels for the whole run."""
    if find_redis() is None:
        pytest.skip("no redis-server or valkey-server here (scripts/test brings one)")
    with sentinel_group(down_after=30.0) as group:
        yield group


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run. Each test makes a database of its own: `postgres_server.database()`."""
    if find_postgres() is None:
        pytest.skip("no PostgreSQL here (scripts/test brings one)")
    with PostgresServer() as server:
        yield server


def pytest_report_header() -> str:
    return f"profile: {PROFILE}; server: {find_redis() or 'none'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A test that did not run proves nothing, so say how many there are and why, whatever the verbosity."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        reasons = Counter(_reason(report) for report in skipped)
        terminalreporter.section(f"{len(skipped)} tests did not run", sep="-", yellow=True)
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count} x {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    reason = text.removeprefix("Skipped: ")
    return f"{reason} (all of {report.nodeid})" if isinstance(report, pytest.CollectReport) else reason


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every test was skipped is no success: it ends as one that found no tests."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or reporter is None or session.config.option.collectonly:
        return
    if not any(reporter.stats.get(outcome) for outcome in ("passed", "xfailed", "xpassed")):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
