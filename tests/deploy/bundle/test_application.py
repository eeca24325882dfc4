"""A bundle as a function of raw samples, and its proof from them."""

import json
import time

import numpy as np
import pytest
from PIL import Image

import deploy
from deploy.bundle import bundle as bundles
from deploy.bundle import cascade, raw_samples
from deploy.bundle.application import load
from deploy.measure.load import LOOK_S, look
from deploy.measure.path_times import PathTimes, time_path_block
from deploy.onnx_graph.take_bytes import FORMS
from deploy.processing.pictures import png
from deploy.processing.raws import Raw
from deploy.shipping.install import ProofError
from profiles.errors import UserError
from tests.deploy.bundles import bundle, picture_bundle, put

CLASSES = ["a", "b", "c", "d", "e"]


def test_a_picture_in_its_class_out(tmp_path):
    folder, pictures = picture_bundle(tmp_path / "b")
    with deploy.load(folder) as model:
        answers = [model(each) for each in pictures]
        (tmp_path / "p.png").write_bytes(pictures[0])
        assert model(tmp_path / "p.png") == answers[0] == model(Image.open(tmp_path / "p.png"))
    told = json.loads((folder / "answers.json").read_text())
    assert [each["label"] for each in answers] == [each["label"] for each in told] and len(told) == 4
    assert len({each["label"] for each in answers}) > 1, "not always the same"


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_takes_bytes_answers_the_same_and_is_proven(form, tmp_path, store, key):
    folder, pictures = picture_bundle(tmp_path / "b", key=key, form=form)
    plain, _ = picture_bundle(tmp_path / "plain")
    with deploy.load(folder) as model, deploy.load(plain) as other:
        for picture in pictures:
            assert model(picture)["label"] == other(picture)["label"]
            assert model(picture)["score"] == pytest.approx(other(picture)["score"], abs=1e-5)
    assert put(store, folder)["proof"]["raw"] == {"samples": 4, "why_not": ""}
    with np.load(folder / "golden.npz") as golden:
        assert golden["input"].dtype == np.uint8 and golden["input"].shape == (4, 8, 8, 1)


def test_the_device_proves_it_from_raw_samples_and_serves_it(tmp_path, monkeypatch, store, key):
    monkeypatch.setenv("EDGE_HOME", str(tmp_path / "home"))
    folder, pictures = picture_bundle(tmp_path / "b", key=key)
    result = put(store, folder)
    assert result["proof"]["raw"] == {"samples": 4, "why_not": ""}
    with deploy.load("current") as model, deploy.load(name="small") as named, load(folder) as here:
        assert model(pictures[1])["label"] == named(pictures[1])["label"] == here(pictures[1])["label"]
    with pytest.raises(UserError, match="other"):
        deploy.load("current", name="other")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("preprocessing.json", {"mean": [0.9]}, "makes other inputs of it than the golden ones"),
        ("preprocessing.json", {"use": "sudo"}, "asks for 'sudo'"),
        ("preprocessing.json", {"size": [16, 8]}, "does not fit the model"),
        ("postprocessing.json", {"classes": CLASSES[::-1]}, "the answer to the golden outputs is another"),
        ("postprocessing.json", {"classes": CLASSES[:3]}, "3 classes"),
    ],
)
def test_a_bundle_with_another_processing_is_not_served(file, change, words, tmp_path, store, key):
    folder, _ = picture_bundle(tmp_path / "b", key=key, altered=(file, change))
    with pytest.raises(ProofError, match=words) as told:
        put(store, folder)
    assert "\n" not in str(told.value)


def test_bundles_of_earlier_versions_are_installed_and_say_what_they_lack(tmp_path):
    folder = bundle(tmp_path / "b")
    assert raw_samples.unproven(folder) == "the bundle has no raw samples"
    with pytest.raises(UserError, match="names no preprocessing"):
        deploy.load(folder)
    with pytest.raises(UserError, match="no bundle|manifest"):
        deploy.load(tmp_path)


def test_what_is_no_picture_is_told(tmp_path):
    folder, _ = picture_bundle(tmp_path / "b")
    with deploy.load(folder) as model:
        for raw in (b"no picture", tmp_path / "none.png", 5):
            with pytest.raises(UserError) as told:
                model(raw)
            assert "\n" not in str(told.value)


def test_what_is_neither_current_nor_a_folder_is_told():
    for given in (3, None, ["current"]):
        with pytest.raises(UserError, match="deploy.load takes 'current' or a bundle's folder; given: ") as told:
            deploy.load(given)
        assert len(told.value.faults) == 1


def test_a_cascade_asks_the_large_one_where_the_small_is_unsure(tmp_path):
    small, pictures = picture_bundle(tmp_path / "c" / "small")
    picture_bundle(tmp_path / "c" / "large", seed=5)
    cascade.write(tmp_path / "c", 2.0)  # nothing is that sure
    with deploy.load(tmp_path / "c") as both, deploy.load(tmp_path / "c" / "large") as large:
        assert [both(each) for each in pictures] == [large(each) for each in pictures]
        assert (both.asked, both.went_on) == (4, 4)
    cascade.write(tmp_path / "c", 0.0)
    with deploy.load(tmp_path / "c") as both, deploy.load(small) as own:
        assert [both(each) for each in pictures] == [own(each) for each in pictures] and both.went_on == 0


def a_large_picture():
    drawn = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40)), np.ones((20, 20))).astype(np.uint8)
    return png(drawn[..., None])


def timed(model, picture, seconds):
    def run(prepared):
        return model.run(prepared), prepared

    raws = [Raw(value=picture)]
    return np.asarray(time_path_block(model.processing.prepare, run, lambda ran: model.answer(*ran), raws, seconds))


def test_the_total_is_what_a_stopwatch_around_the_same_calls_shows(tmp_path):
    """On a machine that others use too: another clock, from the first thing a sample meets to the last."""
    folder, _ = picture_bundle(tmp_path / "b")
    with load(folder) as model:
        started, stopwatch = [], []
        prepare, answer = model.processing.prepare, model.answer

        def begun(raw):
            started.append(time.monotonic())
            return prepare(raw)

        def run(prepared):
            return model.run(prepared), prepared

        def ended(ran):
            answer(*ran)
            stopwatch.append(1000 * (time.monotonic() - started[-1]))

        rows = np.asarray(time_path_block(begun, run, ended, [Raw(value=a_large_picture())], 0.05))
    shown = np.array(stopwatch[-len(rows) :])
    assert len(rows) >= 11 and np.median(rows[:, 3] / shown) == pytest.approx(1.0, abs=0.05)
    assert rows[:, 3] == pytest.approx(rows[:, :3].sum(axis=1)), "one clock: the parts are the whole"
    told = PathTimes(blocks=[rows.tolist()] * 3).summary()
    assert told.pre.p50 > told.post.p50 > 0 and told.total.low <= told.total.p50 <= told.total.high


@pytest.mark.slow
def test_the_total_is_what_an_application_waits_for(tmp_path):
    """Calls of ``model(picture)`` in turns with our blocks: the least of all, and on a quiet machine the medians."""
    folder, _ = picture_bundle(tmp_path / "b")
    picture, ratios, least = a_large_picture(), [], []
    with load(folder) as model:
        for _ in range(15):
            rows, waited = timed(model, picture, 0.2), []
            for _ in rows:
                started = time.monotonic()
                model(picture)
                waited.append(1000 * (time.monotonic() - started))
            ratios.append(np.median(rows[:, 3]) / np.median(waited))
            least.append((rows[:, 3].min(), min(waited)))
    ours, theirs = np.min(least, axis=0)
    assert ours / theirs == pytest.approx(1.0, abs=0.05)
    if not look(LOOK_S).doubts():
        assert np.median(ratios) == pytest.approx(1.0, abs=0.05)


def test_intervals_are_the_medians_of_blocks_but_the_outermost():
    blocks = [[[float(n), 2.0, 3.0, 5.0 + n]] * 3 for n in (5, 1, 4, 2, 3)]
    told = PathTimes(blocks=blocks).summary()
    assert (told.pre.low, told.pre.p50, told.pre.high) == (2.0, 3.0, 4.0) and told.total.p50 == 8.0 and told.samples == 15


def test_a_megabyte_holds_golden_and_raw_samples(tmp_path):
    folder, _ = picture_bundle(tmp_path / "b")
    assert sum((folder / name).stat().st_size for name in ("golden.npz", "raw.npz")) <= 1_000_000
    assert bundles.verify(folder).flips == 0
