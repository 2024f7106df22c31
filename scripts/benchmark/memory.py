"""The jobs of the family "memory": stores in the memory of one process, beside what one would keep objects in."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import partial
from typing import Final

from attrs import frozen
from documents import pattern
from harness import Contender, Job, Room
from peers.local import EVERY
from peers.shape import Peer
from space import alone, on_linux, resident
from storing import Turns, delete_turns, get_turns, key, list_turns, on_disk, opened, put_turns, row


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    """Operations of a contender in a round."""
    held: int
    """Documents that are held while memory is watched."""
    repeats: int
    """Rounds of what is no time, and differs little from one to the next."""
    keys: int = 1_000


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(rounds=30, turn=200, held=10_000, repeats=5),
    "quick": Size(rounds=10, turn=50, held=2_000, repeats=2, keys=200),
    "tiny": Size(rounds=2, turn=5, held=500, repeats=1, keys=20),
}


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    puts = [row(peer, on_disk, partial(put_turns, peer, size.turn)) for peer in EVERY]
    gets = [row(peer, on_disk, partial(get_turns, peer, size.keys, size.turn)) for peer in EVERY]
    deletes = [row(peer, on_disk, partial(delete_turns, peer, size.turn)) for peer in EVERY]
    lists = [row(peer, on_disk, partial(list_turns, peer, size.keys)) for peer in EVERY]
    held = [Contender(p.name, partial(held_turns, p, size.held), "", (), None, p.missing, p.role) for p in EVERY]
    return [
        Job("put", "put, a new key, in memory", "us", size.rounds, puts),
        Job("get", f"get, one of {size.keys:,}, in memory", "us", size.rounds, gets),
        Job("delete", "delete, in memory", "us", size.rounds, deletes),
        Job("list", f"list {size.keys:,}, in memory", "ms", min(size.rounds, 10), lists),
        Job("space", f"memory a document, of {size.held:,}", "bytes", size.repeats, on_linux(held), warm_up=0),
    ]


def held_turns(peer: Peer, count: int, room: Room) -> Turns:
    while True:
        yield [alone(growth, peer, str(room.own), count) / count]


def growth(peer: Peer, place: str, count: int) -> float:
    """Return by how many bytes a store lets this process grow that holds documents, the first of which do not count.

    Each document is made when it is put, and belongs to the store.
    """
    warm = count // 10
    with opened(peer, place) as store:
        store.time(store.put, ((key(number), peer.form(pattern(number))) for number in range(warm)))
        gc.collect()
        before = resident()
        store.time(store.put, ((key(number), peer.form(pattern(number))) for number in range(warm, warm + count)))
        gc.collect()
        return max(1.0, resident() - before)
