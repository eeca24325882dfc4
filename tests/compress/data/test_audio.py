"""Recordings: every way to label them, other rates and channels, augmentation as sound; what is wrong in a line each."""

import itertools
import math
import re
import wave

import numpy as np
import pytest

from compress.data import recordings
from compress.data.audio import audio
from compress.data.audio_files import FIELD, _fields
from compress.data.audio_transforms import AudioPreprocessing, augment_sounds, place
from compress.data.recordings import read_head, read_sound, resampled
from profiles.errors import UserError

RATE = 8000
STILL = {"shift_s": 0.0, "noise_db": 0.0, "gain_db": 0.0, "time_mask_s": 0.0, "frequency_mask": 0.0}


def tone(hz, rate=RATE, seconds=0.1, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(path, *channels, rate=RATE, width=2):
    """Write whole numbers of ``width`` bytes as WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = 2 ** (8 * width - 1)
    numbers = np.clip(np.round(np.stack(channels, axis=1) * full), -full, full - 1).astype(np.int64)
    numbers = numbers + 128 if width == 1 else numbers
    data = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in numbers.reshape(-1))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


@pytest.fixture
def spoken(tmp_path):
    """Four recordings of each of three speakers: "high" or "low", named so."""
    root = tmp_path / "spoken"
    for speaker, level in (("ann", 0.5), ("ben", 0.4), ("cy", 0.3)):
        for take in range(4):
            label, hz = (("low", 500), ("high", 2000))[take % 2]
            write(root / f"{label}_{speaker}_{take}.wav", tone(hz, level=level))
    return root


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_any_width_are_read_with_full_scale_one(tmp_path, width, monkeypatch):
    monkeypatch.setattr(recordings, "_has_soundfile", lambda: False)
    values = np.array([0.0, 0.5, -0.5, -1.0], np.float32)
    write(tmp_path / "a.wav", values, values / 2, width=width)
    head, sound = read_head(tmp_path / "a.wav"), read_sound(tmp_path / "a.wav")
    assert (head.rate, head.channels, head.frames) == (RATE, 2, 4)
    np.testing.assert_allclose(sound, np.stack([values, values / 2], axis=1), atol=2.0 ** (1 - 8 * width))


def test_soundfile_reads_the_same_and_flac_too(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    write(tmp_path / "a.wav", tone(300), tone(500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "_has_soundfile", lambda: False)
        own = read_sound(tmp_path / "a.wav")
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav"), own)
    soundfile.write(tmp_path / "a.flac", own, RATE)
    np.testing.assert_array_equal(read_sound(tmp_path / "a.flac"), own)
    assert read_head(tmp_path / "a.flac") == read_head(tmp_path / "a.wav")


def test_without_soundfile_other_kinds_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    monkeypatch.setattr(recordings, "_has_soundfile", lambda: False)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    assert "flac files need soundfile" in read_head(tmp_path / "a.flac")
    assert "pip install 'edge-compress[audio]'" in read_head(tmp_path / "a.flac")
    (tmp_path / "b.wav").write_bytes(b"RIFF....WAVEjunk")
    assert "soundfile reads more kinds" in read_head(tmp_path / "b.wav")


@pytest.mark.parametrize(("given", "wanted"), [(8000, 16000), (16000, 8000), (44100, 16000), (8000, 11025)])
def test_a_tone_is_the_same_tone_at_another_rate(given, wanted):
    made = resampled(tone(440, given, 0.2), given, wanted)
    expected = tone(440, wanted, 0.2)
    assert len(made) == len(expected)
    inner = slice(wanted // 50, -wanted // 50)
    assert np.abs(made - expected)[inner].max() < 3e-3
    assert resampled(expected, wanted, wanted) is expected


def test_what_the_lower_rate_cannot_hold_is_taken_out():
    """7 kHz cannot be at 8,000 samples a second: left in, it would be heard as 1 kHz."""
    made = resampled(tone(7000, 16000, 0.2), 16000, 8000)
    assert np.abs(made[200:-200]).max() < 0.01
    with pytest.raises(ValueError, match="no common divisor"):
        resampled(tone(440, 44101), 44101, 44100)


def test_short_ones_are_in_the_middle_and_of_long_ones_the_middle_is_taken():
    view = AudioPreprocessing(rate=10, seconds=0.6, **{**STILL, "shift_s": 0.2})
    result = np.zeros(6, np.float32)
    place(np.array([1, 2], np.float32), result, view)
    np.testing.assert_array_equal(result, [0, 0, 1, 2, 0, 0])
    result[:] = 0
    place(np.array([1, 2], np.float32), result, view, draw=1.0)
    np.testing.assert_array_equal(result, [0, 0, 0, 0, 1, 2])
    place(np.arange(10, dtype=np.float32), result, view)
    np.testing.assert_array_equal(result, np.arange(2, 8))
    place(np.arange(10, dtype=np.float32), result, view, draw=1.0)
    np.testing.assert_array_equal(result, np.arange(4, 10))


def test_noise_has_the_level_that_was_asked_for():
    """Noise of 20 to 50 dB below the recording; gain, mask and band off."""
    sounds = np.stack([tone(500, seconds=1.0)] * 64)
    noises = np.random.default_rng(0).standard_normal(sounds.shape).astype(np.float32)
    view = AudioPreprocessing(rate=RATE, seconds=1.0, **{**STILL, "noise_db": 20.0})
    added = augment_sounds(sounds, noises, view, np.random.default_rng(0)) - sounds
    below = 20 * np.log10(np.sqrt((sounds**2).mean(axis=1) / (added**2).mean(axis=1)))
    assert 19.9 < below.min() < 23 and 47 < below.max() < 50.1


def test_spec_augment_silences_a_span_and_takes_out_a_band():
    noise = np.random.default_rng(0).standard_normal((32, RATE)).astype(np.float32)
    view = AudioPreprocessing(rate=RATE, seconds=1.0, **{**STILL, "time_mask_s": 0.25})
    silent = augment_sounds(noise.copy(), noise, view, np.random.default_rng(1)) == 0
    assert silent.sum(axis=1).min() > 0 and 0.15 * RATE < silent.sum(axis=1).max() <= 0.25 * RATE
    assert (np.abs(np.diff(silent.astype(int), axis=1)).sum(axis=1) <= 2).all(), "one span each"
    view = AudioPreprocessing(rate=RATE, seconds=1.0, **{**STILL, "frequency_mask": 0.3})
    power = np.abs(np.fft.rfft(augment_sounds(noise.copy(), noise, view, np.random.default_rng(1)))) < 0.05
    plain = np.abs(np.fft.rfft(noise)) < 0.05
    gone = (power & ~plain).sum(axis=1) / power.shape[1]
    assert gone.max() > 0.1 and gone.max() < 0.6


def test_augmentation_is_drawn_from_the_generator_alone(spoken):
    train = audio(path=spoken, rate=RATE, seconds=0.1, names="{label}_{speaker}_{take}", by="speaker").train
    first, second, other = (train.load(np.arange(2), np.random.default_rng(seed)).inputs for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any() and first.shape == (2, 1, 800) and first.dtype == np.float32


def test_speakers_are_held_out(spoken):
    options = {"path": spoken, "rate": RATE, "seconds": 0.1, "names": "{label}_{speaker}_{take}", **STILL}
    named = audio(**options, held_out={"test": {"speaker": ["cy"]}, "validation": {"speaker": ["ben"]}})
    assert [len(part) for part in (named.train, named.validation, named.test)] == [4, 4, 4]
    drawn = audio(**options, by="speaker", seed=2)
    assert [len(part) for part in (drawn.train, drawn.validation, drawn.test)] == [4, 4, 4]
    assert audio(**options, by="speaker", seed=3).test.fingerprint() != drawn.test.fingerprint()
    batch = named.test.load(np.arange(4))
    assert named.classes == ("high", "low")
    np.testing.assert_array_equal(batch.targets, [0, 0, 1, 1])
    crossings = (np.diff(np.sign(batch.inputs[:, 0]), axis=1) != 0).sum(axis=1)
    assert (crossings[:2] > 400).all() and (crossings[2:] < 400).all(), "the high tones are called high"


def test_folders_of_classes_lists_and_parts(tmp_path):
    for word, hz in (("yes", 500), ("no", 900)):
        for n in range(4):
            write(tmp_path / "commands" / word / f"s{n}_nohash_0.wav", tone(hz))
    write(tmp_path / "commands/_background_noise_/hum.wav", tone(60))
    (tmp_path / "commands/testing_list.txt").write_text("yes/s0_nohash_0.wav\nno/s0_nohash_0.wav\n")
    (tmp_path / "commands/validation_list.txt").write_text("yes/s1_nohash_0.wav\n")
    splits = audio(path=tmp_path / "commands", rate=RATE, seconds=0.1)
    assert splits.classes == ("no", "yes")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 1, 2]
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for n in range(count):
            write(tmp_path / "parts" / part / "hum" / f"{n}.wav", tone(60))
            write(tmp_path / "parts" / part / "hiss" / f"{n}.wav", tone(3000))
    splits = audio(path=tmp_path / "parts", rate=RATE, seconds=0.1, noise_path=str(tmp_path / "parts/train/hum"))
    assert splits.classes == ("hiss", "hum")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 4, 2]
    assert np.isfinite(splits.train.load(np.arange(2), np.random.default_rng(0)).inputs).all()


def test_tags_of_a_table(tmp_path):
    for n in range(6):
        write(tmp_path / "clips" / f"{n}.wav", tone(500 + n))
    rows = ["0,rain;wind", "1,wind", "2,", "3,rain", "4,rain;wind", "5,wind"]
    (tmp_path / "tags.csv").write_text("\n".join(["fname,labels", *rows]))
    options = {"table": "tags.csv", "file_column": "fname", "label_column": "labels", "separator": ";"}
    splits = audio(path=tmp_path, rate=RATE, seconds=0.1, **options, validation=1, test=1)
    parts = splits.train, splits.validation, splits.test
    targets = np.concatenate([part.load(np.arange(len(part))).targets for part in parts])
    assert splits.classes == ("rain", "wind") and targets.dtype == np.float32
    np.testing.assert_array_equal(targets.sum(axis=0), [3, 4])


def test_other_rates_and_channels_are_told_and_brought_to_one(spoken):
    write(spoken / "low_ann_0.wav", tone(500, 16000), tone(500, 16000), rate=16000)
    write(spoken / "low_ann_2.wav", tone(500, seconds=0.3))
    options = {"path": spoken, "rate": RATE, "seconds": 0.1, "names": "{label}_{speaker}_{take}", **STILL}
    splits = audio(**options, held_out={"test": {"speaker": ["ann"]}})
    assert splits.notes == (
        "1 recordings of 16000 Hz are brought to 8000 Hz",
        "1 recordings have several channels, which are averaged",
        "1 recordings are longer than 0.1 s; a part is taken",
    )
    high, low = (splits.test.load(np.array([row])).inputs[0, 0] for row in (0, 2))
    assert np.abs(low[40:-40] - tone(500)[40:-40]).max() < 5e-3
    assert splits.preprocessing["rate"] == RATE and splits.preprocessing["full_scale"] == 1.0


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (lambda r: write(r / "low_ann_0.wav", tone(5, seconds=0.01)), {}, "lasts 0.010 s, less than least_seconds = 0.05"),
        (lambda r: write(r / "low_ann_0.wav", tone(5), rate=9000), {"resample": False}, "has 9000 samples a second"),
        (lambda r: (r / "low_ann_0.wav").write_bytes(b""), {}, r"low_ann_0.wav cannot be read \(it is empty\)"),
        (lambda r: (r / "low_ann_0.wav").write_bytes(b"RIFF"), {}, r"low_ann_0.wav cannot be read \("),
        (lambda r: write(r / "hum.wav", tone(5)), {}, "hum.wav has no name of the form {label}_{speaker}_{take}"),
        (lambda r: None, {"names": ""}, "high_ann_1.wav: it is in no folder of a class"),
        (lambda r: None, {"held_out": {"test": {"city": ["x"]}}}, r"label, speaker, take; given: \['city'\]"),
        (lambda r: None, {"held_out": {"test": {"speaker": ["dee"]}}}, "held_out for test is not one of 12 recordings"),
        (lambda r: None, {"classes": ["high"]}, "6 recordings of 'low', which is no class; known: high"),
        (lambda r: None, {"by": "label"}, "2 values of label cannot be parted into train, validation and test"),
        (lambda r: None, {"log_mel": {"window": 20}}, "log_mel has window_ms, .*; given: window"),
        (lambda r: None, {"log_mel": {"window_ms": 200}}, "has not one frame of 200 ms"),
        (lambda r: None, {"seconds": -1.0, "frequency_mask": 2.0}, "(?s)seconds is how long.*frequency_mask is a share"),
        (lambda r: None, {"table": "none.csv"}, "none.csv: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(spoken, damage, options, words):
    damage(spoken)
    with pytest.raises(UserError, match=words):
        audio(**{"path": spoken, "rate": RATE, "seconds": 0.1, "names": "{label}_{speaker}_{take}", **options})


def test_spectra_in_place_of_sound(spoken):
    options = {"path": spoken, "rate": RATE, "seconds": 0.1, "names": "{label}_{speaker}_{take}", "by": "speaker"}
    splits = audio(**options, log_mel={"mels": 16, "window_ms": 32, "hop_ms": 16})
    inputs = splits.test.load(np.arange(4)).inputs
    assert inputs.shape == (4, 1, 16, 5) and inputs.dtype == np.float32
    loudest = inputs[:, 0].mean(axis=2).argmax(axis=1)
    assert (loudest[:2] > loudest[2:]).all() and splits.preprocessing["log_mel"]["mels"] == 16
    assert math.isclose(float(inputs.min()), -2.3, abs_tol=0.5)


def test_fields_of_names_are_those_of_the_regular_expression():
    """Of short names over two letters and a separator, all; and a name that a regular expression would take years for."""
    for form in ("{a}_{b}", "{a}_{b}_{c}", "x{a}{b}_", "{a}__{b}y", "_{a}", "{a}x_{b}_x"):
        pattern = FIELD.split(form)
        regex = re.compile("".join(f"(?P<{text}>.+?)" if n % 2 else re.escape(text) for n, text in enumerate(pattern)))
        for letters in itertools.chain.from_iterable(itertools.product("xy_", repeat=length) for length in range(8)):
            match = regex.fullmatch("".join(letters))
            assert _fields("".join(letters), pattern) == (match and match.groupdict()), (form, letters)
    many = FIELD.split("_".join(f"{{f{number}}}" for number in range(30)) + "!")
    assert _fields("_" * 250, many) is None
