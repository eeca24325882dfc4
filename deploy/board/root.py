"""The root folder of a device: ours by a marker that is written while it is empty; nothing is removed without it.

Works before there is anything of ours on the device: a POSIX shell alone.
"""

from __future__ import annotations

import shlex
from pathlib import Path

MARKER = ".edge-compress-root"
TEXT = "edge-compress: folder of a device side, removed by compress device clean"
FOLDERS = ("code", "parts", "blobs", "trees", "work", "jobs", "venv", "wheels", "put", "made")
"""Every folder that a device side makes below its root, over SSH or adb."""
FOREIGN = "edge-compress-foreign "

HEX = "[0-9a-f]"
KNOWN = (
    rf"code(/{HEX}{{16}}(\.part)?)?",
    rf"parts(/{HEX}{{64}}|/tree-{HEX}{{64}})?",
    rf"blobs(/{HEX}{{64}})?",
    rf"trees(/{HEX}{{64}}(\.json)?)?",
    rf"(work|made)(/{HEX}{{32}})?",
    rf"jobs(/{HEX}{{12}})?",
    rf"put(/{HEX}{{64}})?",
    rf"part-{HEX}{{32}}(/.*)?",
    r"venv(/.*)?",
    r"wheels(/.*\.whl)?",
    r"edge-compress\.lock",
)
"""What roots of earlier versions, which have no marker, hold on their first two levels."""

CLAIM = """
foreign() { echo "FOREIGN$1"; exit 0; }
[ -L "$root" ] && foreign "it is a link"
mkdir -p "$root" 2>/dev/null
cd "$root" 2>/dev/null || foreign "it cannot be made or entered"
root=$(pwd -P)
[ -L MARKER ] && foreign "its marker is a link"
if [ -f MARKER ]; then
  [ "$(head -n 1 MARKER)" = "TEXT" ] || foreign "its marker is another program's"
elif [ -e MARKER ]; then
  foreign "its marker is no file"
elif [ -n "$(ls -A)" ]; then
  [ -z "$(find . -mindepth 1 -maxdepth 2 | grep -vxE '\\./(KNOWN)')" ] || foreign "it holds files that are not ours"
  [ -z "$(find . -mindepth 1 -maxdepth 1 -type l)" ] || foreign "it holds links"
  ours=no
  for file in code/*/deploy/__main__.py put/*; do
    [ -e "$file" ] && [ ! -L "$file" ] && ours=yes
  done
  [ $ours = yes ] || foreign "it holds files that are not ours"
  echo "TEXT" > MARKER
else
  echo "TEXT" > MARKER
fi
for name in FOLDERS; do
  [ -L "$name" ] && foreign "$name in it is a link"
done
true
"""


class ForeignRootError(Exception):
    """A folder that was not made by us, and may not be a device's root; says why."""


def claim_script() -> str:
    """Return shell lines that go to ``$root`` and make it ours, or print ``FOREIGN`` with a reason and exit with 0.

    A new or an empty folder gets the marker. One without a marker is taken over only where every entry of its first two
    levels has a name of ours and our code or files are there, as in roots of earlier versions.
    """
    values = {"FOREIGN": FOREIGN, "MARKER": MARKER, "TEXT": TEXT, "FOLDERS": " ".join(FOLDERS)}
    script = CLAIM
    for name, value in {**values, "KNOWN": "|".join(KNOWN)}.items():
        script = script.replace(name, value)
    return script


def remove_script(also: str = "") -> str:
    """Return shell lines that remove our folders, then the marker, then ``$root`` if nothing else is left in it.

    They run in the root, after ``claim_script``; ``rm -r`` removes a link and does not follow it.
    """
    return (
        f"rm -rf -- {' '.join(FOLDERS)} part-*\n{also}\nrm -f -- {shlex.quote(MARKER)}\n"
        'cd / && rmdir "$root" 2>/dev/null\ntrue\n'
    )


def foreign_reason(output: str) -> str | None:
    """Return the reason that ``claim_script`` printed; None where the root is ours."""
    reasons = [line.removeprefix(FOREIGN) for line in output.splitlines() if line.startswith(FOREIGN)]
    return reasons[0] if reasons else None


def remedy(root: str, reason: str) -> str:
    """Word the refusal of a root."""
    return (
        f"{root} is not used, and nothing in it was removed: {reason}; name a folder that does not exist yet "
        "or is empty (?root=FOLDER)"
    )


def claim(root: Path) -> None:
    """Do the same as ``claim_script`` for a folder of this machine that is new, empty or ours.

    Raises:
        ForeignRootError: it is another's, or a folder of ours in it is a link.
    """
    marker = root / MARKER
    if root.is_symlink():
        raise ForeignRootError(remedy(str(root), "it is a link"))
    root.mkdir(parents=True, exist_ok=True)
    if not marker.is_symlink() and not marker.exists() and not any(root.iterdir()):
        marker.write_text(TEXT + "\n")
    check(root)


def check(root: Path) -> None:
    """Check that ``root`` is ours.

    Raises:
        ForeignRootError: it is not, or a folder of ours in it is a link.
    """
    marker = root / MARKER
    if root.is_symlink() or marker.is_symlink() or not marker.is_file():
        raise ForeignRootError(remedy(str(root), "it has no marker of ours"))
    with marker.open("rb") as file:
        if file.read(len(TEXT.encode()) + 1).rstrip(b"\n") != TEXT.encode():
            raise ForeignRootError(remedy(str(root), "its marker is another program's"))
    for name in FOLDERS:
        if (root / name).is_symlink():
            raise ForeignRootError(remedy(str(root), f"{name} in it is a link"))
