"""What a key holds, as one readable JSON document with a checksum.

::

    {"key":"user_1","version":7,"expires":null,"value":{"json":{"trust_level":0.65}},"crc32":"5d41402a"}
    {"key":"total","version":9,"expires":null,"hash":{"count":12,"note":"text","raw":{"base64":"//4="}},"crc32":...}
    {"key":"recent","version":9,"expires":null,"zset":[[1.0,"member"]],"crc32":...}

A value, field or member is a number if its bytes are a decimal integer, a text if they are UTF-8, `{"json": ...}` if
they are a JSON object or array, which stands there byte for byte, and else `{"base64": ...}`. The checksum is that of
the bytes before `,"crc32"`.
"""

from __future__ import annotations

import base64
import itertools
import re
import zlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from empathy_kv.errors import DamagedError
from empathy_kv.kv.table import Content, Entry, SortedSet, decimal

_DEEP: Final = 200
"""Levels of nesting up to which a value stands there as JSON: readers with a deep stack have to get through, too."""
_TEXT: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_FLAT: Final = bytes(set(range(256)) - set(b"[{]}"))

_NESTED: Final = frozenset((b"{", b"["))
_NUMERIC: Final = frozenset(b"%d" % digit for digit in range(10)) | {b"-"}
"""How a decimal integer begins. To find that a text is none, by trying, takes three times as long as all else."""
_TAIL: Final = len(',"crc32":"00000000"}\n')


class _Item(msgspec.Struct, omit_defaults=True):
    json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    base64: str | msgspec.UnsetType = msgspec.UNSET


_Form = int | str | _Item


class _Document(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    key: str
    version: int
    expires: int | None = None
    value: _Form | msgspec.UnsetType = msgspec.UNSET
    hash: dict[str, _Form] | msgspec.UnsetType = msgspec.UNSET
    zset: list[tuple[float, _Form]] | msgspec.UnsetType = msgspec.UNSET


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Document)


def _freeze(value: bytes) -> _Form:
    if value[:1] in _NESTED and value[-1:] in (b"}", b"]"):
        try:
            msgspec.json.decode(value, type=msgspec.Raw)  # Builds nothing, and looks at no text.
            if not value.isascii():
                value.decode()
            if _depth(value) <= _DEEP:
                return _Item(json=msgspec.Raw(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    if value[:1] in _NUMERIC:
        number = decimal(value)
        if number is not None:
            return number
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _Item(base64=base64.b64encode(value).decode())


def _depth(value: bytes) -> int:
    """Return how deep a JSON text is nested, or a bound on it that is no more than `_DEEP`."""
    opening = value.count(b"[") + value.count(b"{")
    if opening <= _DEEP:
        return opening
    steps = _TEXT.sub(b"", value).translate(_STEPS, _FLAT)
    return max(itertools.accumulate(array("b", steps)))


def _thaw(form: _Form) -> bytes:
    if isinstance(form, int):
        return b"%d" % form
    if isinstance(form, str):
        return form.encode()
    if isinstance(form.json, msgspec.Raw):
        return bytes(form.json)
    return base64.b64decode(form.base64 or "", validate=True)


def encode(key: str, entry: Entry) -> bytes:
    """Return the document of a key."""
    document = _Document(key, entry.version, entry.expires)
    content = entry.content
    if isinstance(content, bytes):
        document.value = _freeze(content)
    elif isinstance(content, dict):
        document.hash = {name: _freeze(value) for name, value in content.items()}
    else:
        document.zset = [(score, _freeze(member)) for score, member in content.order]
    body = _ENCODER.encode(document)[:-1]
    return b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))


def decode(data: bytes, path: str) -> tuple[str, Entry]:
    """Return the key of a document and what it holds.

    Raises `DamagedError` if these bytes are not what `encode` wrote.
    """
    body, tail = data[:-_TAIL], data[-_TAIL:]
    if tail != b',"crc32":"%08x"}\n' % zlib.crc32(body):
        raise DamagedError(f"{path} is damaged: its checksum does not fit", path=path)
    try:
        document = _parse(body + b"}")
        content: Content
        if not isinstance(document.value, msgspec.UnsetType):
            content = _thaw(document.value)
        elif not isinstance(document.hash, msgspec.UnsetType):
            content = {name: _thaw(form) for name, form in document.hash.items()}
        elif not isinstance(document.zset, msgspec.UnsetType):
            content = SortedSet([(score, _thaw(form)) for score, form in document.zset])
        else:
            raise DamagedError(f"{path} is damaged: it holds nothing", path=path)
    except (msgspec.DecodeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}", path=path) from error
    return document.key, Entry(content, document.version, document.expires)


def _parse(text: bytes) -> _Document:
    try:
        return _DECODER.decode(text)
    except RecursionError:
        pass
    # The caller's stack is deep, or the document is: older ones were nested up to what was left of the stack. That of
    # a thread is empty.
    with ThreadPoolExecutor(1) as pool:
        document = pool.submit(_attempt, text).result()
    if document is None:
        raise ValueError("it is nested too deep")
    return document


def _attempt(text: bytes) -> _Document | None:
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return None


def left(data: bytes, becomes: bytes) -> bool:
    """Return whether a crash may have left `data` of a document that is made from nothing by the journal.

    It was cut short while it was being written, or nothing of it reached the disk.
    """
    return bool(becomes) and (becomes.startswith(data) or not any(data))
