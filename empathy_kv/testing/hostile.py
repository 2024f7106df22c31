"""Texts that stores get wrong: as keys, fields, names of namespaces, ids."""

from __future__ import annotations

from typing import Final

from empathy_kv.kv.operations import MAX_KEY

_PATHS: Final = (
    *(".", "..", "...", "/", "//", "\\", "./a", "../a", "../../etc/passwd", "..\\..\\a", "/etc/passwd", "/a/b", "a/b"),
    *("a//b", "a/b/", "a/./b", "a/../b", "a\\b", "C:", "C:a", "C:\\a", "\\\\server\\share", "file:///a", "a/..", "/.."),
    *("~", "~root", "~0", "~1", "~01", "~0~1", "$HOME", "${HOME}"),
    *("%HOME%", "`id`", "$(id)", "|id", ";id", "&id", ">a"),
)
_NAMES_OF_FILES: Final = (
    *("CON", "con", "Con", "PRN", "NUL", "nul", "nul.json", "AUX"),
    *("aux.", "aux.h", "COM1", "com1.txt", "LPT9", "CONIN$"),
    *("COM¹", "a.", "a..", "a ", " a", " ", "  ", ".a", ".hidden", "-", "--", "-rf", "--help", ".git", ".tmp", "a.tmp"),
    *(".json", "a.json", "a.json.json", ".lock", "lock", "journal", "index", "meta", "a~", "#a#", "a.lock", "a::$DATA"),
    *("__init__", "__proto__", "constructor", "desktop.ini", ".DS_Store", "Thumbs.db", "._a", "PROGRA~1"),
)
_ENCODINGS: Final = (
    *("%", "%%", "%2", "%2F", "%2f", "%00", "%41", "A", "a%2Fb", "a%2fb"),
    *("a%252Fb", "a+b", "a b", "a%20b", "=41", "=?"),
    *("\\x00", "\\u0041", "&amp;", "&#65;", "xn--a", "YWJj", "_", "__", "a_b", "a-b", "a=b", "616263"),
)
_CONTROLS: Final = (
    *("\0", "a\0", "a\0b", "\0a", "\n", "a\n", "a\nb", "\r", "a\rb"),
    *("a\r\nb", "\t", "\x01", "\x1b[31m", "\x1f", "\x7f"),
    *("\x80", "\x85", "\xa0", "\xad", "\u2028", "\u2029", "\ufeff", "\ufeffa", "\ufffd", "\ufffe", "\uffff"),
)
_OTHER_LANGUAGES_OF_THE_MACHINE: Final = (
    *("*", "?", "a*", "[a]", "[!a]", "[a-z]", "{}", "{a}", "{tag}"),
    *("{tag}a", "a{tag}", "}{", "{", "}", ":", "::", ":a"),
    *("a:", "a:b", "a:b:c", "#", "#revision", "#keys", "@", "!", "^"),
    *("$", ",", ";", "|", "<a>", "(a)", "''", '"', '""'),
    *("'", "'; DROP TABLE patterns; --", "' OR '1'='1", "{{7*7}}", "%s", "%n", "{0}", "<script>", "//a", "/*", "--a"),
    *("null", "None", "true", "nan", "0", "00", "-0", "1", "01", "1.0", "1e3", "[]", '{"a":1}', "-1", "+inf", "(1"),
)
_TWINS: Final = (
    *("a", "aa", "B", "b", "User", "user", "USER", "uSER", "é", "e\u0301", "É", "E\u0301", "Å", "A\u030a", "\u212b"),
    *("ß", "ss", "ẞ", "SS", "ﬁ", "fi", "K", "\u212a", "k", "ı", "i", "İ", "I", "i\u0307", "ſ", "s", "Σ", "σ", "ς"),
    *("\uac00", "\u1100\u1161", "Ω", "\u2126", "²", "2", "①", "ａ", "а", "…", "\u2024", "\uff0f", "\u2215"),
)
_SCRIPTS: Final = (
    *("日本語", "العربية", "עברית", "\u202ea", "a\u202eb", "\u200f"),
    *("\u200d", "\u200b", "a\u200bb", "a\u200d", "हिन्दी"),
    *("😀", "👨‍👩‍👧", "👨👩👧", "❤", "❤\ufe0f", "🏳️‍🌈", "🇩🇪", "👍🏽", "\U00010000"),
    *("\U0010ffff", "\ue000", "\U000e0041", "Z͑ͫ̓ͪ̂ͫ̽͏̴"),
)
_LONG: Final = (
    *("x" * 200, "x" * 255, "x" * 256, "X" * 255, "x" * 511, "x" * 511 + "y", "x" * 512, "x" * 513, "x" * 1023 + "y"),
    *("x" * 1024, "é" * 128, "é" * 256, "é" * 512, "😀" * 128, "😀" * 256, "/" * 255, "/" * 512, "." * 512, "%" * 512),
    *("\0" * 512, ":" * 512, "A" * 512, "a/" * 128, "../" * 100, "\n" * 1024),
)
_REFUSED: Final = (
    *("", "x" * 1025, "é" * 512 + "x", "é" * 513, "😀" * 257, "\ud800", "\udfff", "a\ud800", "\udc41b", "\udcff"),
    *("\ud83d\ude00", "\ude00\ud83d", "x" * 100_000),
)

HOSTILE: Final[tuple[str, ...]] = (
    *_PATHS,
    *_NAMES_OF_FILES,
    *_ENCODINGS,
    *_CONTROLS,
    *_OTHER_LANGUAGES_OF_THE_MACHINE,
    *_TWINS,
    *_SCRIPTS,
    *_LONG,
    *_REFUSED,
)
"""More than 300 texts, no two alike. A store takes each of them exactly, or refuses it at once: see `storable`."""


def storable(text: str, limit: int = MAX_KEY) -> bool:
    """Return whether a store takes the text: it is not empty, UTF-8 can express it, in at most `limit` bytes."""
    try:
        return 0 < len(text.encode()) <= limit
    except UnicodeEncodeError:
        return False
