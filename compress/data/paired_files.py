"""Two folders of files that belong together by their names, in the layouts that data sets come in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

from compress.data.box_samples import PARTS
from compress.data.decoding import SUFFIXES
from profiles.errors import UserError


@final
class PairFinder:
    """Finds the pairs of files of each part, and collects what is wrong.

    Args:
        first, second: names that the two folders may have, of which the first that is there is taken.
        first_suffix: of a name of the first, before the dot; that of its pair in the second has ``second_suffix`` instead.
        kinds: endings of the files in the second.
    """

    def __init__(
        self,
        root: Path,
        first: Sequence[str],
        second: Sequence[str],
        first_suffix: str = "",
        second_suffix: str = "",
        kinds: tuple[str, ...] = SUFFIXES,
    ) -> None:
        self._root, self._first, self._second, self._kinds = root, first, second, kinds
        self._first_suffix, self._second_suffix = first_suffix, second_suffix
        self.faults: list[str] = []
        self.unused = 0

    def pairs(self) -> dict[str, list[tuple[str, str]]]:
        """Return the pairs of each part, as names under the root.

        Raises:
            UserError: there are no such folders.
        """
        if not self._root.is_dir():
            names = f"{self._first[0]} and {self._second[0]}"
            raise UserError(f"data: {self._root} is not a folder; give one that holds {names}")
        folders = self._folders()
        if "train" not in folders:
            there = ", ".join(sorted(each.name for each in self._root.iterdir())[:12])
            first, second = self._first[0], self._second[0]
            words = f"train/{first} and train/{second}, nor {first} and {second}"
            known = f"known names: {', '.join(self._first)}; {', '.join(self._second)}"
            raise UserError(f"data: {self._root} has no {words}; it has {there or 'nothing'}; {known}")
        found = {part: self._matched(*pair) for part, pair in folders.items()}
        self.faults += [f"data: {folders[part][0]} holds no image" for part, names in found.items() if not names]
        return found

    def _folders(self) -> dict[str, tuple[Path, Path]]:
        """Return both folders of each part."""
        outer = self._both(self._root)
        folders: dict[str, tuple[Path, Path]] = {}
        for name, part in PARTS.items():
            inside = self._both(self._root / name)
            if inside is not None:
                folders.setdefault(part, inside)
            elif outer is not None and all((each / name).is_dir() for each in outer):
                folders.setdefault(part, (outer[0] / name, outer[1] / name))
        return folders or ({"train": outer} if outer is not None else {})

    def _both(self, folder: Path) -> tuple[Path, Path] | None:
        first, second = (
            next((folder / name for name in names if (folder / name).is_dir()), None)
            for names in (self._first, self._second)
        )
        return (first, second) if first is not None and second is not None else None

    def _matched(self, first: Path, second: Path) -> list[tuple[str, str]]:
        by_stem = {stem(name, self._second_suffix): name for name in files_below(second, self._kinds)}
        pairs: list[tuple[str, str]] = []
        for name in files_below(first):
            own = stem(name, self._first_suffix)
            if own is None or own not in by_stem:
                wanted = f"{second / own}{self._second_suffix}.png" if own else f"a name ending in {self._first_suffix}"
                self.faults.append(f"data: {first / name} has no pair in {second.name}; {wanted} is expected")
                continue
            pairs.append((os.path.relpath(first / name, self._root), os.path.relpath(second / by_stem[own], self._root)))
        self.unused += len(by_stem.keys() - {None}) - len(pairs)
        return pairs


def files_below(folder: Path, kinds: tuple[str, ...] = SUFFIXES) -> list[str]:
    """List the files of some kinds anywhere under a folder, in order; hidden ones are left out."""
    found: list[str] = []
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        under = os.path.relpath(place, folder)
        wanted = [name for name in names if name.lower().endswith(kinds) and not name.startswith(".")]
        found += [os.path.normpath(os.path.join(under, name)) for name in wanted]
    return sorted(found)


def stem(name: str, suffix: str) -> str | None:
    """Return a file's name without its ending and ``suffix``; None where it has not that suffix."""
    plain = os.path.splitext(name)[0]
    return plain.removesuffix(suffix) if plain.endswith(suffix) else None
