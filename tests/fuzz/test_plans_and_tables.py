"""Plans, locks, keys, arrays, masks and tables of sounds, mutated: read, or one line for each fault."""

import functools
import io
import json
import wave

import numpy as np
from PIL import Image

import compress
from compress.data.audio import audio
from compress.data.masks import masks
from compress.losses.base import load_npy
from compress.models import plan as plans
from compress.models.hub.lock import read_lock
from deploy.bundle import golden, signing
from deploy.engines import build_record
from deploy.engines.base import BuildPlan, EngineError, load_plan, save_plan
from tests.conftest import small_model, small_plan
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table

PICTURES = 10


def mutated_json(table, rnd, number):
    content = json.dumps(mutated_table(table, rnd)).encode()
    return content if number % 3 else mutated_bytes(json.dumps(table).encode(), rnd)


def test_models_that_a_run_left(tmp_path):
    plans.save(tmp_path, small_plan(), small_model())
    plan, weights = ((tmp_path / name).read_bytes() for name in (plans.PLAN, plans.WEIGHTS))
    rnd, table = generator("surgery"), json.loads(plan)
    assert check(compress.load, tmp_path) == ()
    for number in range(inputs(40)):
        as_plan = number % 2
        (tmp_path / plans.PLAN).write_bytes(mutated_json(table, rnd, number) if as_plan else plan)
        (tmp_path / plans.WEIGHTS).write_bytes(weights if as_plan else mutated_bytes(weights[:4000], rnd) + weights[4000:])
        check(compress.load, tmp_path)


def test_plans_of_engines_and_their_records(tmp_path):
    save_plan(
        tmp_path, BuildPlan(engine="onnxruntime", precision="fp32", batch=1, threads=2, version="1", options={"a": "b"})
    )
    table, rnd = json.loads((tmp_path / "engine.json").read_text()), generator("engine.json")
    assert check(load_plan, tmp_path) == () == check(build_record.load, tmp_path)
    for number in range(inputs(150)):
        content = mutated_json(table, rnd, number)
        (tmp_path / "engine.json").write_bytes(content)
        (tmp_path / build_record.RECORD_FILE).write_bytes(content)
        check(load_plan, tmp_path, allowed=(EngineError,))
        record = build_record.load(tmp_path)
        assert record is None or isinstance(build_record.mismatches(record, {"a": {"b": 1}}), tuple)


LOCK = """schema = 1
[[name]]
model = "timm:resnet18"
asked = "main"
source = "https://huggingface.co/timm/resnet18"
revision = "abc"
[[name.files]]
name = "model.safetensors"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
size = 12
"""


def test_locks_of_recipes(tmp_path):
    file, rnd = tmp_path / "r.lock", generator("lock")

    def read(content):
        file.write_bytes(content)
        read_lock(file)

    assert check(read, b"[" * 10_000) and check(read, b"schema = 2")
    for _ in range(inputs(100)):
        check(read, mutated_bytes(LOCK.encode(), rnd))


def test_keys(tmp_path):
    file, rnd = tmp_path / "k.pem", generator("pem")
    pem = signing.to_pem(bytes(range(32))).encode()

    def read(content):
        file.write_bytes(content)
        signing.read_pem(file)

    assert check(read, pem) == ()
    for _ in range(inputs(100)):
        check(read, mutated_bytes(pem, rnd))


def test_golden_samples_and_arrays_of_losses(tmp_path):
    content, rnd = io.BytesIO(), generator("golden")
    np.savez(content, **golden.pack(np.ones((4, 3), np.float32), [np.ones((4, 2), np.float32)]))
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    array = (tmp_path / "a.npy").read_bytes()

    def read(given):
        (tmp_path / "golden.npz").write_bytes(given)
        golden.read(tmp_path / "golden.npz")

    def of_loss(given):
        (tmp_path / "a.npy").write_bytes(given)
        load_npy("codebook", "table", tmp_path / "a.npy")

    assert check(read, content.getvalue()) == check(of_loss, array) == ()
    for _ in range(inputs(100)):
        check(read, mutated_bytes(content.getvalue(), rnd), allowed=(ValueError,))
        check(of_loss, mutated_bytes(array, rnd))


def test_masks(tmp_path):
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(PICTURES):
        Image.new("RGB", (16, 12), (number * 20, 0, 0)).save(tmp_path / f"images/train/p{number}.png")
        Image.new("L", (16, 12), number % 2).save(tmp_path / f"masks/train/p{number}.png")
    file, rnd = tmp_path / "masks/train/p0.png", generator("masks")
    content = file.read_bytes()

    def read(given):
        file.write_bytes(given)
        masks(path=tmp_path, size=[16, 16], classes=["a", "b"]).train.load(np.arange(2))

    assert check(read, content) == ()
    for _ in range(inputs(60)):
        check(read, mutated_bytes(content, rnd))


@functools.cache
def sound():
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(4000) / 9) * 9000).astype("<i2").tobytes())
    return content.getvalue()


def test_sounds_and_their_tables(tmp_path):
    for number in range(PICTURES):
        (tmp_path / f"s{number}.wav").write_bytes(sound())
    table = "file,label\n" + "".join(f"s{number}.wav,{'ab'[number % 2]}\n" for number in range(PICTURES))
    rnd = generator("sounds")

    def read(listed, given):
        (tmp_path / "t.csv").write_bytes(listed)
        (tmp_path / "s0.wav").write_bytes(given)
        audio(path=tmp_path, table=tmp_path / "t.csv", seconds=0.5).train.load(np.arange(2))

    check(read, table.encode(), sound())
    for number in range(inputs(60)):
        listed, given = table.encode(), sound()
        check(read, *((mutated_bytes(listed, rnd), given) if number % 2 else (listed, mutated_bytes(given, rnd))))
