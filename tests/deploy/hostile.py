"""Names that a hostile board, archive or bundle may give."""

from __future__ import annotations

import random

from hypothesis import strategies as st

NAMES = [
    "",
    ".",
    "..",
    "../out",
    "a/../../out",
    "a/./b",
    "a//b",
    "a/",
    "/etc/passwd",
    "//host/share",
    "..\\out",
    "C:\\out",
    "C:/out",
    "c:out",
    "\\\\host\\share",
    "con",
    "CON.txt",
    "a/NUL",
    "aux .log",
    "Com1",
    "lpt\u00b9.onnx",
    "CONOUT$",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "\x1b[2J",
    "a\u202exno.exe",
    "a\u2028b",
    "trailing.",
    "trailing ",
    "a./b",
    "\ud800",
]
PARTS = [*NAMES, "a", "b.onnx", "...", "~", "%2e%2e", "x" * 300, "\u2024\u2024", "work", "\u00e4"]


def hostile_names() -> st.SearchStrategy[str]:
    """Names joined from hostile and plain parts, and any text at all."""
    joined = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).flatmap(
        lambda parts: st.sampled_from(["/", "\\", ""]).map(lambda separator: separator.join(parts))
    )
    return st.one_of(joined, st.text(st.characters(), max_size=20))


def many(count: int = 500) -> list[str]:
    """The same without hypothesis, for a caller that takes many names at once: different ones, always the same."""
    dice = random.Random(0)
    names = dict.fromkeys(NAMES)
    while len(names) < count:
        parts = dice.choices(PARTS, k=dice.randint(1, 5))
        names[dice.choice(["/", "\\", "/../", "//"]).join(parts)] = None
    return list(names)
