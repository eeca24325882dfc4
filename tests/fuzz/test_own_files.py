"""Files that the product keeps for itself, mutated as a full disk or another program leaves them: read, or made anew."""

import io
import json

from compress.data import fingerprints
from compress.execution import locks
from compress.execution.cache import FACTS, MANIFEST, StepCache, step_fault
from compress.execution.progress import StreamProgress
from compress.models import trust
from compress.pipeline import cache_keys, signing_keys
from deploy.board import lock as board_locks
from deploy.board import root as roots
from deploy.board.store import Store
from deploy.latency.stopwatch import Stopwatch, Time, _line
from deploy.shipping.releases import Release, Slot
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table

DEEP = b"[" * 100_000
RAW = (
    b"",
    DEEP,
    b'{"a":' * 50_000,
    b"null",
    b"5",
    b'"x"',
    b"[1]",
    b"{}",
    b"\xff\xfe",
    b"\0" * 40,
    b"1" * 5000,
    b'{"a": NaN}',
)


def contents(table, rnd, count):
    """Yield damaged forms of a table in JSON."""
    yield from RAW
    for number in range(count):
        content = json.dumps(mutated_table(table, rnd)).encode()
        yield content if number % 3 else mutated_bytes(json.dumps(table).encode(), rnd)


def test_owners_of_locks(tmp_path):
    rnd = generator("owner")
    held = {"pid": 5, "host": "h", "since": 1.5, "command": "compress run"}
    for content in contents(held, rnd, inputs(60)):
        words = []
        (tmp_path / "lock").write_bytes(content)
        check(lambda words=words: words.append(locks._owner(tmp_path / "lock")))
        assert words and "\n" not in words[0] and len(words[0]) < 400


def test_locks_of_boards(tmp_path):
    rnd, file = generator("board lock"), tmp_path / board_locks.FILE
    board_locks.Lock(tmp_path, "a", "me").take()
    held = json.loads(file.read_text())
    for content in contents(held, rnd, inputs(60)):
        file.write_bytes(content)

        def look():
            found = board_locks.read(tmp_path)
            if found is not None:
                (found.is_stale, found.describe())
            board_locks.Lock(tmp_path, "b", "you").beat()

        check(look)


def test_remembered_factories_and_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(cache_keys, "_memory_file", lambda: tmp_path / "code.json")
    file = tmp_path / "edge-compress" / "factories.json"
    file.parent.mkdir()
    rnd = generator("factories")
    kept = {"version": cache_keys._version(), "sources": {"a": ["0" * 64, ["x", "y"]]}}
    (tmp_path / "code.json").write_text(json.dumps(kept))
    assert cache_keys._Memory._load()
    for content in contents(["a:b", "c:d"], rnd, inputs(60)):
        file.write_bytes(content)
        check(trust.is_allowed, "x:y")
        (tmp_path / "code.json").write_bytes(content)
        check(cache_keys._Memory._load)
    for content in contents(kept, rnd, inputs(60)):
        (tmp_path / "code.json").write_bytes(content)
        check(cache_keys._Memory._load)


def test_remembered_digests_of_data(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"abc")
    right = fingerprints.file_digests(tmp_path / "data", ["a"])
    file = fingerprints._memory(tmp_path / "data")
    file.parent.mkdir(exist_ok=True)
    rnd, table = generator("digests"), {"a": [3, 5, "0" * 64], "b": [1, 2, "x"]}
    for content in contents(table, rnd, inputs(60)):
        file.write_bytes(content)
        found = []
        check(lambda found=found: found.append(fingerprints.file_digests(tmp_path / "data", ["a"])))
        assert found == [right]


def test_steps(tmp_path):
    def fresh():
        return StepCache(tmp_path, StreamProgress(io.StringIO()))

    def make(folder):
        (folder / "out").write_bytes(b"result")
        return {"figure": 1}

    step = fresh().step("kind", {"a": 1}, make)
    rnd, folder = generator("steps"), step.folder
    for name in (MANIFEST, FACTS):
        table = json.loads((folder / name).read_text())
        for content in contents(table, rnd, inputs(15)):
            (folder / name).write_bytes(content)
            check(step_fault, folder)
            found = []
            check(lambda found=found: found.append(fresh().step("kind", {"a": 1}, make)))
            assert found[0].facts == {"figure": 1} and (found[0].folder / "out").read_bytes() == b"result"


def test_kept_times(tmp_path):
    rnd = generator("stopwatch")
    watch = Stopwatch.__new__(Stopwatch)
    watch._file, watch._say = tmp_path / "a.jsonl", lambda text: None
    entry = json.loads(_line("m", Time(least_ms=1.0, p50_ms=2.0)))
    for content in contents(entry, rnd, inputs(100)):
        watch._file.write_bytes(content + b"\n" + content)
        check(watch._cached)


HISTORY = {"activated": ["a" * 16], "highest": 3, "digest": "0" * 64}


def test_histories_and_proofs(tmp_path):
    rnd, slot = generator("history"), Slot(tmp_path / "m")
    (slot.releases / ("a" * 16)).mkdir(parents=True)
    release = Release(slot.releases / ("a" * 16))
    for content in contents(HISTORY, rnd, inputs(100)):
        (slot.folder / "history.json").write_bytes(content)
        check(slot.history)
        check(slot.faults)
        (release.folder / "proof.json").write_bytes(content)
        check(release.proof, allowed=(ValueError, OSError))


def test_lists_of_trees(tmp_path):
    rnd, store = generator("trees"), Store(tmp_path / "root")
    for content in contents({"a": "0" * 64}, rnd, inputs(60)):
        tree = store.root / "trees" / "x"
        tree.mkdir(parents=True, exist_ok=True)
        tree.with_name("x.json").write_bytes(content)
        check(store.forget, tree)


def test_marks_of_roots(tmp_path):
    rnd = generator("marks")
    roots.claim(tmp_path / "root")
    marker = tmp_path / "root" / roots.MARKER
    whole = marker.read_bytes()
    assert check(roots.check, tmp_path / "root") == ()
    for _ in range(inputs(40)):
        marker.write_bytes(mutated_bytes(whole, rnd))
        check(roots.check, tmp_path / "root", allowed=(roots.ForeignRootError,))


def test_own_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(signing_keys, "folder", lambda: tmp_path)
    key = signing_keys.new("me")
    public, private = (tmp_path / ("me" + end) for end in (signing_keys.PUBLIC, signing_keys.PRIVATE))
    rnd = generator("keys")
    for file in (public, private):
        whole = file.read_bytes()
        for content in [*RAW, b" " * 5_000_000, *(mutated_bytes(whole, rnd) for _ in range(inputs(40)))]:
            file.write_bytes(content)
            file.chmod(0o600)
            check(signing_keys.default)
            check(signing_keys.signer, key)
        file.write_bytes(whole)
