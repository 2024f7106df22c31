"""An embedded key-value store for what AI agents learn: patterns, collaboration states and metrics.

`connect` opens a store by its URL. Everything public is imported from here, and is loaded when it is first used, so
that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empathy_kv.agent import EmpathyConfig, EmpathyOS, Response
    from empathy_kv.async_store import (
        AsyncCollection,
        AsyncMetricsCollector,
        AsyncPatternLibrary,
        AsyncStateManager,
        AsyncStore,
    )
    from empathy_kv.backup.backups import Backups
    from empathy_kv.backup.manifest import Backup
    from empathy_kv.backup.retention import Keep
    from empathy_kv.collection import Collection
    from empathy_kv.errors import (
        ArgumentError,
        ArgumentTypeError,
        BackupNotFoundError,
        CheckError,
        ClosedError,
        CodecError,
        CounterError,
        CounterOverflowError,
        DamagedError,
        EmpathyKVError,
        IdempotencyError,
        LimitError,
        LockTimeoutError,
        MissingFileError,
        NotApplied,
        NotEmptyError,
        NotFoundError,
        OutcomeUnknown,
        PatternExistsError,
        PatternNotFoundError,
        StateNotFoundError,
        StorageError,
        StoragePermissionError,
        TokenError,
        UnavailableError,
        UnfinishedError,
        UnsupportedError,
        WrongTypeError,
    )
    from empathy_kv.kv.interface import Durability, EvictionWarning
    from empathy_kv.metrics import GlobalStats, MetricsCollector, UserStats
    from empathy_kv.pattern_library import PatternLibrary
    from empathy_kv.persistence import PatternPersistence
    from empathy_kv.records import CollaborationState, Interaction, Pattern, PatternMatch
    from empathy_kv.states import StateManager
    from empathy_kv.store import Store
    from empathy_kv.urls import connect, connect_async

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "AsyncCollection",
    "AsyncMetricsCollector",
    "AsyncPatternLibrary",
    "AsyncStateManager",
    "AsyncStore",
    "Backup",
    "BackupNotFoundError",
    "Backups",
    "CheckError",
    "ClosedError",
    "CodecError",
    "CollaborationState",
    "Collection",
    "CounterError",
    "CounterOverflowError",
    "DamagedError",
    "Durability",
    "EmpathyConfig",
    "EmpathyKVError",
    "EmpathyOS",
    "EvictionWarning",
    "GlobalStats",
    "IdempotencyError",
    "Interaction",
    "Keep",
    "LimitError",
    "LockTimeoutError",
    "MetricsCollector",
    "MissingFileError",
    "NotApplied",
    "NotEmptyError",
    "NotFoundError",
    "OutcomeUnknown",
    "Pattern",
    "PatternExistsError",
    "PatternLibrary",
    "PatternMatch",
    "PatternNotFoundError",
    "PatternPersistence",
    "Response",
    "StateManager",
    "StateNotFoundError",
    "StorageError",
    "StoragePermissionError",
    "Store",
    "TokenError",
    "UnavailableError",
    "UnfinishedError",
    "UnsupportedError",
    "UserStats",
    "WrongTypeError",
    "connect",
    "connect_async",
]

_HOMES = {
    "agent": ("EmpathyConfig", "EmpathyOS", "Response"),
    "async_store": (
        "AsyncCollection",
        "AsyncMetricsCollector",
        "AsyncPatternLibrary",
        "AsyncStateManager",
        "AsyncStore",
    ),
    "backup.backups": ("Backups",),
    "backup.manifest": ("Backup",),
    "backup.retention": ("Keep",),
    "collection": ("Collection",),
    "kv.interface": ("Durability", "EvictionWarning"),
    "metrics": ("GlobalStats", "MetricsCollector", "UserStats"),
    "pattern_library": ("PatternLibrary",),
    "persistence": ("PatternPersistence",),
    "records": ("CollaborationState", "Interaction", "Pattern", "PatternMatch"),
    "states": ("StateManager",),
    "store": ("Store",),
    "urls": ("connect", "connect_async"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
