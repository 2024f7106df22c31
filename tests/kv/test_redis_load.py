"""The Redis engine under load: totals are exact, and neither descriptors nor the server's memory grow."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest
import redis
from servers import RedisServer

from empathy_kv import connect, connect_async

RECORDED: Final = {"fast": 5_000, "default": 20_000, "nightly": 1_000_000}[
    os.environ.get("EMPATHY_KV_PROFILE") or "default"
]
USERS: Final = 100
HISTORY: Final = 10
"""Interactions that are kept of a user here, so that the timelines are full before the memory is looked at."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc to count descriptors by")
def test_sixteen_threads_lose_nothing_and_keep_one_connection_each(redis_server: RedisServer) -> None:
    with connect(redis_server.url, prefix=f"test-{secrets.token_hex(4)}", timeout=30.0) as store:
        before = descriptors()

        def work() -> None:
            for number in range(100):
                store.metrics.record_interaction(f"u{number % 7}", 1 + number % 5, True, 1.0)
                store.kv.namespace("a").incr("n")

        for _ in range(3):
            threads = [threading.Thread(target=work) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert descriptors() - before <= 16
        assert store.kv.namespace("a").get("n") == b"4800"
        assert store.metrics.get_global_stats()["total_interactions"] == 4800


def test_eight_processes_of_many_tasks_lose_nothing(redis_server: RedisServer) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    code = """
import asyncio, sys
from empathy_kv import connect_async
async def main():
    async with await connect_async(sys.argv[1], prefix=sys.argv[2], timeout=60.0) as store:
        async def work(number):
            for _ in range(5):
                await store.metrics.record_interaction(f"u{number}", 3, True, 2.0)
        await asyncio.gather(*(work(number) for number in range(20)))
asyncio.run(main())
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", code, redis_server.url, prefix], stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    assert [worker.communicate(timeout=120)[1] for worker in workers] == [""] * 8
    with connect(redis_server.url, prefix=prefix) as store:
        assert store.metrics.get_global_stats()["total_interactions"] == 8 * 20 * 5
        assert {store.metrics.get_user_stats(f"u{number}")["total_operations"] for number in range(20)} == {40}


def test_a_server_is_as_large_after_many_interactions_as_after_few() -> None:
    """Beyond the timelines, which are bounded, nothing grows: not what is kept for exactly once either."""
    with RedisServer() as server, redis.Redis(port=server.port) as client:

        async def record(count: int) -> None:
            async with await connect_async(server.url, timeout=60.0, history_limit=HISTORY) as store:
                left = iter(range(count))

                async def work() -> None:
                    for number in left:
                        await store.metrics.record_interaction(f"u{number % USERS}", 1 + number % 5, True, number % 50)

                await asyncio.gather(*(work() for _ in range(50)))

        asyncio.run(record(USERS * HISTORY))
        first, keys = int(client.info("memory")["used_memory"]), client.dbsize()
        asyncio.run(record(RECORDED))
        asyncio.run(record(100))
        assert int(client.info("memory")["used_memory"]) - first < 5_000_000
        # Of each writer what he wrote last, a slot for each write under way at once.
        assert client.dbsize() - keys <= 2 * 64 * 50
        with connect(server.url) as store:
            assert store.metrics.get_global_stats()["total_interactions"] == USERS * HISTORY + RECORDED + 100
