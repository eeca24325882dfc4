"""First contact with a board: probe it, choose a Python there, and install the device side.

Nothing but a POSIX shell and Python is needed on the board, no root and no internet.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import files
from deploy.board import root as roots
from deploy.engines import engine, engines
from profiles.errors import UserError

PACKAGES = ("deploy", "calib", "profiles")
SUFFIXES = (".py", ".toml")
HOST_ONLY = ("deploy/onnx_graph", "deploy/qdq", "deploy/export", "deploy/latency")
"""Folders that stay on the host: nothing on a board imports them."""
LEAST_PYTHON = (3, 10)
VENV_READY = ".edge-compress"
PROBE_LINE = "edge-compress-probe "

PROBE = """
import json, sys, platform
found = {"version": list(sys.version_info[:3]), "arch": platform.machine(), "executable": sys.argv[1], "modules": {}}
if sys.version_info >= (3, 10):
    import importlib.util
    for name in sys.argv[2:]:
        try:
            found["modules"][name] = importlib.util.find_spec(name) is not None
        except Exception as error:
            found["modules"][name] = False
    try:
        import numpy
        found["numpy"] = numpy.__version__
    except Exception as error:
        found["numpy_fault"] = "%s: %s" % (type(error).__name__, str(error).strip().splitlines()[0])
sys.stdout.write("edge-compress-probe " + json.dumps(found) + chr(10))
"""

UNPACK = """
import sys, tarfile
root, name = sys.argv[1:]
part, whole = os.path.join(root, "code", name + ".part"), os.path.join(root, "code", name)
shutil.rmtree(part, ignore_errors=True)
os.makedirs(part)
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    for member in archive:
        target = str(safe_path(Path(part), member.name))
        if not member.isfile():
            raise UnsafeNameError(ascii(member.name) + " is no plain file")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            shutil.copyfileobj(archive.extractfile(member), file)
            file.flush()
            os.fsync(file.fileno())
if not os.path.isdir(whole):
    os.rename(part, whole)
print("unpacked")
"""


class ProbeError(Exception):
    """A board that did not answer the probe as a board does; says what it answered."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python interpreter on the board.

    Attributes:
        modules: whether each runtime's module is there.
        numpy: its version, or the fault when it cannot be imported.
    """

    executable: str
    version: tuple[int, ...]
    arch: str
    modules: dict[str, bool]
    numpy: str | None
    fault: str = ""

    @property
    def is_new_enough(self) -> bool:
        return self.version >= LEAST_PYTHON

    @property
    def can_work(self) -> bool:
        return self.is_new_enough and self.numpy is not None and any(self.modules.values())

    def describe(self) -> str:
        """Describe why it cannot do the work, in a few words."""
        version = ".".join(str(part) for part in self.version)
        if not self.is_new_enough:
            return f"{self.executable} is Python {version}, {LEAST_PYTHON[0]}.{LEAST_PYTHON[1]} or newer is needed"
        missing = [] if self.numpy else [self.fault or "numpy"]
        missing += [] if any(self.modules.values()) else [f"a runtime ({' or '.join(sorted(self.modules))})"]
        return f"{self.executable} ({version}) lacks {' and '.join(missing)}"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The board's root, architecture, interpreters and installed versions of the device side."""

    root: str
    arch: str
    interpreters: tuple[Interpreter, ...]
    code: tuple[str, ...]


def payload() -> tuple[str, bytes]:
    """Return the digest of the device side, and its source files as a tar."""
    top = Path(__file__).parent.parent.parent
    sources = [p for package in PACKAGES for p in sorted((top / package).rglob("*")) if p.suffix in SUFFIXES]
    files = [p for p in sources if not p.relative_to(top).as_posix().startswith(HOST_ONLY)]
    name, buffer = hashlib.sha256(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry, content = tarfile.TarInfo(str(file.relative_to(top))), file.read_bytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            name.update(entry.name.encode() + b"\0" + content + b"\0")
    return name.hexdigest()[:16], buffer.getvalue()


def unpack_script() -> str:
    """Return the Python program that unpacks ``payload`` on a board without any of our code; it takes ROOT and NAME."""
    return Path(files.__file__).read_text() + UNPACK


def runtimes() -> list[str]:
    """Return the Python modules of all engines."""
    return sorted({engine(name).package for name in engines()})


def tree_digest(entries: Mapping[str, str]) -> str:
    """Return one digest for a set of files: path -> digest."""
    return hashlib.sha256(json.dumps(dict(entries), sort_keys=True).encode()).hexdigest()


def probe_script(root: str, candidates: Sequence[str]) -> str:
    """Return a shell script that probes the board; ``root`` and ``candidates`` may begin with ``~/``."""
    words = " ".join(shell_path(c) for c in candidates)
    modules = shlex.join(runtimes())
    return (
        f"root={shell_path(root)}\n{roots.claim_script()}mkdir -p code || exit 73\n"
        'echo "edge-compress-root $(pwd -P)"; echo "edge-compress-arch $(uname -m)"\n'
        'for code in code/*; do case $code in *.part) ;; *) echo "edge-compress-code ${code#code/}" ;; esac; done\n'
        f"for python in {words}; do\n"
        f'  case $python in "$root"/venv/*) [ -e "$root/venv/{VENV_READY}" ] || continue ;; esac\n'
        f'  command -v "$python" >/dev/null 2>&1 && "$python" -c {shlex.quote(PROBE)} "$(command -v "$python")" {modules} '
        "2>/dev/null\n"
        "done; exit 0\n"
    )


def parse_probe(output: str) -> ProbeResult:
    """Parse the output of ``probe_script``.

    Raises:
        ForeignRootError: the root is not ours.
        ProbeError: it is not what a board answers.
    """
    reason = roots.foreign_reason(output)
    if reason is not None:
        raise roots.ForeignRootError(reason)
    try:
        return _parse_probe(output)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProbeError(f"the board's answer to the first question is malformed ({type(error).__name__})") from None


def _parse_probe(output: str) -> ProbeResult:
    facts: dict[str, list[str]] = {"root": [], "arch": [], "code": [], "probe": []}
    for line in output.splitlines():
        for key, values in facts.items():
            if line.startswith(f"edge-compress-{key} "):
                values.append(line.split(" ", 1)[1])
    return ProbeResult(
        root=facts["root"][0],
        arch=facts["arch"][0],
        interpreters=tuple(_interpreter(json.loads(line)) for line in facts["probe"]),
        code=tuple(name for name in facts["code"] if name != "*"),
    )


def choose_interpreter(contact: ProbeResult, where: str, asked: str | None) -> Interpreter:
    """Return the first interpreter that can do the work.

    Raises:
        UserError: there is none; what each one lacks, and how to get it.
    """
    for interpreter in contact.interpreters:
        if interpreter.can_work:
            return interpreter
    raise UserError(*_interpreter_faults(contact, where, asked))


def base_interpreter(contact: ProbeResult, where: str, asked: str | None) -> Interpreter:
    """Return the first interpreter that is new enough, whatever it lacks: a venv can be made from it."""
    for interpreter in contact.interpreters:
        if interpreter.is_new_enough:
            return interpreter
    raise UserError(*_interpreter_faults(contact, where, asked))


def shell_path(path: str) -> str:
    """Quote ``path`` for a shell, but for a ``~/`` at its start."""
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path[2:])
    return shlex.quote(path)


def _interpreter(description: dict[str, Any]) -> Interpreter:
    numpy = description.get("numpy")
    return Interpreter(
        executable=str(description["executable"]),
        version=tuple(int(part) for part in description["version"]),
        arch=str(description["arch"]),
        modules={str(name): bool(there) for name, there in description["modules"].items()},
        numpy=None if numpy is None else str(numpy),
        fault=str(description.get("numpy_fault", "")),
    )


def _interpreter_faults(contact: ProbeResult, where: str, asked: str | None) -> list[str]:
    if not contact.interpreters:
        sought = f"no Python answers to {asked!r} there" if asked else "no python3 there"
        return [f"{where}: wrong Python: {sought}; install 3.10 or newer, or name one: {where}?python=/path/to/python"]
    new_enough = [i for i in contact.interpreters if i.is_new_enough]
    descriptions = "; ".join(i.describe() for i in contact.interpreters)
    if not new_enough:
        return [f"{where}: wrong Python: {descriptions}; install a newer one, or name it: {where}?python=/path/to/python"]
    version = ".".join(str(part) for part in new_enough[0].version[:2])
    remedy = (
        f"install numpy and onnxruntime there (python3 -m pip install numpy onnxruntime); or, for a board without internet, "
        f"here: pip download -d wheels --only-binary=:all: --python-version {version} --platform "
        f"manylinux_2_28_{contact.arch} --platform manylinux2014_{contact.arch} numpy onnxruntime, and EDGE_WHEELS=wheels; "
        f"or name another Python: {where}?python=/path/to/python"
    )
    return [f"{where}: no Python there can do the work: {descriptions}; {remedy}"]


def pip_wheel() -> Path:
    """Return the wheel of a pip that runs without installation: the board's Python may have none.

    Raises:
        UserError: this machine's Python came without one.
    """
    import ensurepip

    folders = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    candidates = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    if not candidates:
        raise UserError("this machine's Python has no bundled pip to make a venv with; install python3-venv here")
    return candidates[0]
