"""Every error that this package raises on purpose.

::

    EmpathyKVError
    ├── ArgumentError (ValueError)            an argument is not what is allowed: .argument
    │   ├── ArgumentTypeError (TypeError)     ... it has another type
    │   ├── LimitError                        ... it is too long, too large, too deep: .limit
    │   └── CodecError                        a document is not what is allowed: .path
    ├── PatternExistsError (ValueError)       the id is taken: .pattern_id
    ├── NotFoundError (KeyError)
    │   ├── PatternNotFoundError (ValueError)         .pattern_id
    │   ├── StateNotFoundError (FileNotFoundError)    .user_id
    │   ├── BackupNotFoundError (FileNotFoundError)   .name
    │   └── MissingFileError (FileNotFoundError)      .path
    ├── NotApplied                            certainly nothing was written
    │   ├── CheckError                        a precondition did not hold: .key .expected .actual
    │   ├── WrongTypeError (TypeError)        the key holds another kind of value: .key .kind
    │   ├── CounterError (ValueError)         the value is not a 64-bit integer: .key .field
    │   │   └── CounterOverflowError (OverflowError)  ... and would leave that range
    │   ├── LockTimeoutError (TimeoutError)   another writer kept the lock: .path .timeout
    │   ├── UnavailableError (ConnectionError)  the server was not reached
    │   └── StorageError (OSError)            the disk or the server refused: .errno .path
    │       └── StoragePermissionError (PermissionError)
    ├── OutcomeUnknown (TimeoutError)         the write was sent, no answer came: .token
    ├── TokenError (ValueError)               the token cannot be used (again): .token
    ├── DamagedError (ValueError)             stored bytes are not what was written: .path
    ├── IdempotencyError (ValueError)         an id was used before, for something else: .id
    ├── NotEmptyError (FileExistsError)       the store that was to be filled holds something
    ├── UnfinishedError (RuntimeError)        a restore into the store was not finished: run it again
    ├── UnsupportedError (NotImplementedError)  the store has no such thing
    └── ClosedError (RuntimeError)            the store was closed, or belongs to the parent of a fork

A write ends in one of three ways: it returned (it was applied), it raised `OutcomeUnknown`, or it raised
anything else of this tree (this call applied nothing). Who is interrupted or cancelled is not told: the write was done
wholly, or not at all. A `TokenError` is no `NotApplied`: an earlier call with the token may have
been applied. All of them can be pickled, so that they cross process borders.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackupNotFoundError",
    "CheckError",
    "ClosedError",
    "CodecError",
    "CounterError",
    "CounterOverflowError",
    "DamagedError",
    "EmpathyKVError",
    "IdempotencyError",
    "LimitError",
    "LockTimeoutError",
    "MissingFileError",
    "NotApplied",
    "NotEmptyError",
    "NotFoundError",
    "OutcomeUnknown",
    "PatternExistsError",
    "PatternNotFoundError",
    "StateNotFoundError",
    "StorageError",
    "StoragePermissionError",
    "TokenError",
    "UnavailableError",
    "UnfinishedError",
    "UnsupportedError",
    "WrongTypeError",
]


class EmpathyKVError(Exception):
    """The base of all. `message` is the whole sentence; what else it knows stands in attributes."""

    message: str

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(message)
        self.message = message
        for name, value in attributes.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, OSError its errno first.
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state["errno"] = self.errno
        return _rebuild, (type(self), self.message, state)


def _rebuild(kind: type[EmpathyKVError], message: str, attributes: dict[str, Any]) -> EmpathyKVError:
    attributes.pop("message", None)
    return kind(message, **attributes)


class ArgumentError(EmpathyKVError, ValueError):
    """An argument is not what is allowed. Nothing was written."""

    argument: str

    def __init__(self, message: str, *, argument: str = "", **attributes: Any) -> None:
        super().__init__(message, argument=argument, **attributes)


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has a type that is not allowed. Nothing was written."""


class LimitError(ArgumentError):
    """An argument is longer, larger or deeper than a store takes; `empathy_kv.kv.operations` has the limits."""

    limit: int


class CodecError(ArgumentError):
    """A document cannot be stored, or stored bytes are no such document; `path` says where, as `$.tags[2]`."""

    path: str

    def __init__(self, message: str, *, path: str = "$", **attributes: Any) -> None:
        super().__init__(message, path=path, **attributes)


class PatternExistsError(EmpathyKVError, ValueError):
    """A pattern with this id is in the library already."""

    pattern_id: str


class NotFoundError(EmpathyKVError, KeyError):
    """What was asked for by its id is not there."""


class PatternNotFoundError(NotFoundError, ValueError):
    """No pattern has this id."""

    pattern_id: str


class StateNotFoundError(NotFoundError, FileNotFoundError):
    """No state was saved for this user."""

    user_id: str


class BackupNotFoundError(NotFoundError, FileNotFoundError):
    """No backup of this name is listed at the target; or, for the name None, no backup at all."""

    name: str | None


class MissingFileError(NotFoundError, FileNotFoundError):
    """A file that was to be read is not there."""

    path: str


class NotApplied(EmpathyKVError):  # noqa: N818 - the outcome of a write, named as one
    """The write certainly did not happen, and will not."""


class CheckError(NotApplied):
    """A precondition of the batch did not hold.

    `expected` and `actual` are versions; 0 is absent. Expecting None is expecting any; an actual -1 is there, and has
    no version.
    """

    key: str
    expected: int | None
    actual: int


class WrongTypeError(NotApplied, TypeError):
    """The key holds another kind of value than the operation works on (Redis: WRONGTYPE)."""

    key: str
    kind: str


class CounterError(NotApplied, ValueError):
    """The value to be incremented is not a 64-bit integer."""

    key: str
    field: str | None


class CounterOverflowError(CounterError, OverflowError):
    """The increment would take the counter out of the range of 64-bit integers, or a `ZAppend` a score past 2**53."""


class LockTimeoutError(NotApplied, TimeoutError):
    """Another writer held the lock of the namespace for longer than the timeout (seconds)."""

    path: str
    timeout: float


class UnavailableError(NotApplied, ConnectionError):
    """The server could not be reached, or did not answer a read within the timeout."""


class StorageError(NotApplied, OSError):
    """The operating system or the server refused: a full disk, no descriptors, an I/O error. `errno` says which."""

    path: str

    def __init__(self, message: str, *, errno: int | None = None, path: str = "", **attributes: Any) -> None:
        super().__init__(message, path=path, **attributes)
        self.errno = errno


class StoragePermissionError(StorageError, PermissionError):
    """The directory is read-only, or the server does not allow this user to do it."""


class OutcomeUnknown(EmpathyKVError, TimeoutError):  # noqa: N818 - the outcome of a write, named as one
    """The write was sent and no answer came. `store.settle(token)` finds out; repeating the batch with it is safe.

    `token` is None for a batch that was sent without one: then only the caller can find out.
    """

    token: Any


class TokenError(EmpathyKVError, ValueError):
    """The token cannot be used: this call wrote nothing.

    Whether an earlier call with it was applied is not known if the token is too old or its writer went on with a later
    one. It was, if the token was used for another batch; it was not, if the token was settled as not applied.
    """

    token: Any


class DamagedError(EmpathyKVError, ValueError):
    """Stored bytes are not what was written; they are kept where `path` says, and are never returned as data."""

    path: str


class IdempotencyError(EmpathyKVError, ValueError):
    """An id that makes a call idempotent was used before with other content."""

    id: str


class NotEmptyError(EmpathyKVError, FileExistsError):
    """The store that a snapshot was to be restored into holds something already. Nothing was changed."""


class UnfinishedError(EmpathyKVError, RuntimeError):
    """A restore into this store was begun and not finished, so it holds a part of it.

    Running the restore again, or another one, finishes it.
    """


class UnsupportedError(EmpathyKVError, NotImplementedError):
    """The store has no such thing: a database has no key-value interface, for example."""


class ClosedError(EmpathyKVError, RuntimeError):
    """The store was closed."""
