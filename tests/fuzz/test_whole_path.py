"""What is before and after a model of a bundle, mutated by its author: read, or one line for each fault, in bounded time."""

import io
import json
import wave

import numpy as np
import pytest
from PIL import Image

from compress.pipeline.whole_path import kept_path
from deploy.bundle import bundle as bundles
from deploy.bundle import raw_samples
from deploy.processing import whole
from deploy.processing.raws import ANSWERS_FILE, RAW_FILE, Raw
from tests.deploy.bundles import picture_bundle
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes
from tests.fuzz.test_own_files import contents


@pytest.fixture
def made(tmp_path):
    folder, _ = picture_bundle(tmp_path / "b")
    with bundles.opened(folder) as session:
        yield folder, lambda: raw_samples.check(session, folder, "fp32")


@pytest.mark.parametrize("name", [whole.BEFORE_FILE, whole.AFTER_FILE, ANSWERS_FILE])
def test_tables(made, name):
    folder, read = made
    rnd, table = generator(f"whole {name}"), json.loads((folder / name).read_text())
    assert check(read) == ()
    assert check(kept_path, folder) == ()
    for content in contents(table if isinstance(table, dict) else {"answers": table}, rnd, inputs(60)):
        given = content
        if not isinstance(table, dict) and content.startswith(b'{"answers"'):
            given = content[len(b'{"answers": ') : -1]
        (folder / name).write_bytes(given)
        check(read, allowed=(ValueError,))


def test_raw_samples(made):
    folder, read = made
    rnd, content = generator("raw samples"), (folder / RAW_FILE).read_bytes()
    for _ in range(inputs(60)):
        (folder / RAW_FILE).write_bytes(mutated_bytes(content, rnd))
        check(read, allowed=(ValueError,))
        check(kept_path, folder)


def test_pictures(made):
    folder, _ = made
    processing, rnd, content = whole.load(folder), generator("raw pictures"), io.BytesIO()
    Image.new("RGB", (20, 12), (9, 8, 7)).save(content, "png")
    for number in range(inputs(60)):
        mutated = mutated_bytes(content.getvalue(), rnd)
        (folder / "p.png").write_bytes(mutated)
        check(processing.prepare, Raw(value=mutated if number % 2 else folder / "p.png"))


RECORDING = {"use": "recording", "schema": whole.SCHEMA, "rate": 8000, "seconds": 0.05, "log_mel": None}


def test_recordings(tmp_path):
    rnd, content = generator("raw recordings"), io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(400, dtype="<i2").tobytes())
    (tmp_path / whole.BEFORE_FILE).write_text(json.dumps(RECORDING))
    (tmp_path / whole.AFTER_FILE).write_text(json.dumps({"use": "classes", "schema": whole.SCHEMA, "classes": ["a", "b"]}))
    processing = whole.load(tmp_path)
    (tmp_path / "a.wav").write_bytes(content.getvalue())
    assert check(processing.prepare, Raw(value=tmp_path / "a.wav")) == ()
    for _ in range(inputs(60)):
        check(processing.prepare, Raw(value=mutated_bytes(content.getvalue()[:60], rnd) + content.getvalue()[60:]))
    for given in contents(RECORDING, rnd, inputs(60)):
        (tmp_path / whole.BEFORE_FILE).write_bytes(given)

        def read():
            whole.load(tmp_path).prepare(Raw(value=content.getvalue()))

        check(read)
