"""Shipping: what a broken connection, a flipped byte and a changed file do."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

from compress.pipeline import signing_keys
from tests.bench.figure import Figure, Table, at_most
from tests.deploy.trials import breaks, breaks_over_ssh, flips, resend

BREAKS, FLIPS, FILES, FILE_BYTES = 25, 200, 10, 100_000_000


def run() -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["EDGE_KEYS"] = str(folder / "keys")
        key = signing_keys.new("bench")
        for name in ("breaks", "flips", "resend"):
            (folder / name).mkdir()
        found = list(breaks(folder / "breaks", key, rounds=BREAKS, seed=0))
        refused = flips(folder / "flips", key, places=FLIPS)
        sent = resend(folder / "resend", key, files=FILES, file_bytes=FILE_BYTES)
        board = os.environ.get("EDGE_DEVICE")
        (folder / "board").mkdir()
        over_ssh = list(breaks_over_ssh(folder / "board", key, board, rounds=BREAKS, seed=0)) if board else []
    where = Counter(one.during or "none: all was done" for one in found)
    serve, next_ok = [b.serves for b in found], [b.after.ok for b in found]
    figures = [
        _all("connection broken at a random moment of a ship: the old or the new version is served", serve, BREAKS),
        _all("the next ship succeeds", next_ok, BREAKS),
        _all("one bit flipped in a random place of a bundle: refused by the device", [True] * refused, FLIPS),
        at_most("one file of 100 MB changed in ten: sent, of its size", 1.001, sent / FILE_BYTES),
    ]
    if over_ssh:
        serve, next_ok = [b.serves for b in over_ssh], [b.after.ok for b in over_ssh]
        figures += [
            _all("the same on a board over SSH, every ssh killed: the old or the new is served", serve, BREAKS),
            _all("the next ship to the board succeeds", next_ok, BREAKS),
        ]
    fell = ", ".join(f"{command} {count}" for command, count in sorted(where.items()))
    half = "half of the breaks kill the process there by SIGKILL, half take its connection away"
    remarks = [f"the breaks fell into: {fell}; {half}"]
    if over_ssh:
        broke = sum(one.during is not None for one in over_ssh)
        remarks.append(f"over SSH {broke} of {BREAKS} breaks ended the ship, the others came after its last word")
    return Table(figures=figures, remarks=remarks)


def _all(what: str, held: list[bool], total: int) -> Figure:
    return Figure(what=what, asked=f"{total} of {total}", measured=f"{sum(held)} of {total}", met=sum(held) == total)
