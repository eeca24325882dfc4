"""What a cached result depends on: the code that its maker reaches, by the import graph.

``code_key`` of a function, class or module digests the file that defines it and every file that it imports, directly or
not, function-local and type-only imports too. Files are read, never imported. Comments, docstrings and layout do not count
(``compress.execution.cache.source_digest``). What a table names by a string is no import: the losses and the task of a run
are roots beside the stage. A user's own module is followed within its own package or folder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.execution.cache import digest, source_digest
from deploy.files import write_atomically
from profiles.json_text import read_json

PACKAGES = ("torch", "numpy", "accelerate", "brevitas")
"""Packages of others that decide the numbers of a training."""
OURS = ("compress", "deploy", "calib", "profiles")
TOP = Path(__file__).parent.parent.parent
NEUTRAL = {
    "compress.cli": "parses arguments and prints",
    "compress.api": "turns arguments into a recipe, which is in the key itself",
    "compress.report": "shows results that are made",
    "compress.execution.heartbeat": "shows what is being done",
    "compress.execution.progress": "shows how far work is",
    "compress.execution.locks": "keeps writers apart",
    "compress.execution.cache": "stores results as they are; keys with other digests are other keys",
    "compress.pipeline.cache_keys": "names results",
    "profiles.errors": "words of errors, after which there is no result",
    "profiles.remedies": "words of errors, after which there is no result",
    "deploy.files": "writes bytes as they are; gives what a file holds as it is, or nothing",
}
"""Modules and packages that can change no number, and why. The ``__init__`` of a package is followed where something is
imported from it: otherwise it only lists names."""
MOST_REMEMBERED = 5000


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source file: the digest of its code, and the names that it imports."""

    digest: str
    imports: tuple[str, ...]


def code_key(*roots: Any, top: Path = TOP) -> str:
    """Digest the code that ``roots`` reach.

    Args:
        roots: functions, classes, modules, or names of modules.
        top: folder of the packages of this product.
    """
    key = digest([(name, _source(path).digest) for name, path in closure(roots, top)])
    _MEMORY.save()
    return key


def closure(roots: Iterable[Any], top: Path = TOP) -> tuple[tuple[str, Path], ...]:
    """Return the modules that ``roots`` reach by imports, themselves among them, and their files; sorted by name."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = [(name, path) for root in roots for name, path in _located(_module_of(root), top, None)]
    while waiting:
        name, path = waiting.pop()
        if name in found or _is_neutral(name):
            continue
        found[name] = path
        for imported in _source(path).imports:
            if imported not in seen:
                waiting += _located(imported, top, (name, path))
            if imported.partition(".")[0] in OURS:  # the same file, whoever imports it
                seen.add(imported)
    return tuple(sorted(found.items()))


def _module_of(root: Any) -> str:
    if isinstance(root, str):
        return root
    return root.__name__ if isinstance(root, ModuleType) else str(inspect.unwrap(root).__module__)


def _is_neutral(name: str) -> bool:
    return any(name == neutral or name.startswith(f"{neutral}.") for neutral in NEUTRAL)


def _located(name: str, top: Path, importer: tuple[str, Path] | None) -> Iterator[tuple[str, Path]]:
    """Find the module that an import names, or the one that defines the name at its end; none for packages of others."""
    if name.startswith("."):
        name = _absolute(name, importer)
    is_ours = name.partition(".")[0] in OURS
    if importer is None and not is_ours:  # a module that was loaded from a file need not be called as the file is
        file = _file_of(name)
        if file is not None:
            yield name, file
        return
    base = top if is_ours else _base(name, importer)
    while base is not None and name:
        stem = base.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                yield name, path
                return
        name = name.rpartition(".")[0]


def _absolute(name: str, importer: tuple[str, Path] | None) -> str:
    """Turn a relative import into an absolute one."""
    assert importer is not None, "a root is never relative"
    module, path = importer
    rest = name.lstrip(".")
    up = len(name) - len(rest) - (path.name == "__init__.py")
    parts = module.split(".")
    return ".".join([*parts[: len(parts) - up], rest])


def _base(name: str, importer: tuple[str, Path] | None) -> Path | None:
    """Return the folder to search for a module of the user's own: that of the importer's package."""
    if importer is None:
        return None
    module, path = importer
    own_package = "." in module and module.partition(".")[0] == name.partition(".")[0]
    beside = "." not in module and module not in OURS and "site-packages" not in path.parts
    return _folder_of(module, path) if own_package or beside else None


def _folder_of(module: str, file: Path) -> Path:
    depth = len(module.split(".")) - (file.name != "__init__.py")
    return file.parents[depth]


def _file_of(name: str) -> Path | None:
    """Return the source file of a module that is loaded, or can be; None for one without."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
    else:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            return None if spec is None or not spec.has_location or spec.origin is None else Path(spec.origin)
        return None
    return Path(file) if file and file.endswith(".py") else None


def _source(path: Path) -> Source:
    """Read a source file, or what is remembered of it by path, size and time of change."""
    about = path.stat()
    stamp = (path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)  # no copy keeps the last
    return _MEMORY.source(":".join(map(str, stamp)), path)


class _Memory:
    """Digests of source files, kept between runs: reading all of them anew takes seconds."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] | None = None
        self._is_new = False

    def source(self, stamp: str, path: Path) -> Source:
        """Return the source that was remembered under ``stamp``; it is read where there is none."""
        if self._sources is None:
            self._sources = self._load()
        if stamp not in self._sources:
            text = path.read_text()
            self._sources[stamp] = Source(digest=source_digest(text), imports=_imports(ast.parse(text)))
            self._is_new = True
        return self._sources[stamp]

    def save(self) -> None:
        """Write what was read anew; where that cannot be, it is read again next time."""
        if self._is_new and self._sources is not None:
            with contextlib.suppress(OSError):
                file = _memory_file()
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                kept = {stamp: [source.digest, source.imports] for stamp, source in self._sources.items()}
                latest = dict([*kept.items()][-MOST_REMEMBERED:])
                write_atomically(file, json.dumps({"version": _version(), "sources": latest}).encode())
            self._is_new = False

    @staticmethod
    def _load() -> dict[str, Source]:
        try:
            kept = read_json(_memory_file())
            sources = kept["sources"] if kept["version"] == _version() else {}
            return {str(stamp): Source(digest=str(d), imports=tuple(map(str, i))) for stamp, (d, i) in sources.items()}
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            return {}


_MEMORY = _Memory()


def _imports(tree: ast.Module) -> tuple[str, ...]:
    """List every name that a module imports anywhere; ``from a import b`` as ``a.b``, relative ones with their dots."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            names |= {f"{start}{alias.name}" for alias in node.names}
    return tuple(sorted(names))


def _version() -> str:
    """Digest the code that makes digests, and the version of Python, whose syntax trees they are of."""
    return digest([inspect.getsource(source_digest), inspect.getsource(_imports), sys.version])


def _memory_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edge-compress" / "code.json"
