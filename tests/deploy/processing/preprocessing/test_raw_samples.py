"""Raw samples to inputs, worked by hand; and what is none, too large or hostile is told in one line."""

import io
import json
import struct
import wave
import zlib

import numpy as np
import pytest
from PIL import Image

from deploy.processing import whole
from deploy.processing.raws import Raw, fitting, pack, unpack
from profiles.errors import UserError

NORMAL = {"mean": [0.2, 0.4, 0.5], "deviation": [0.5, 0.25, 2.0], "order": "rgb", "scale": 1.0}
IMAGE = {
    "use": "image",
    "size": [2, 2],
    "crop": "centre",
    "short_side": 2,
    "interpolation": "bilinear, antialiased",
    **NORMAL,
}
FITTED = {"use": "fitted", "size": [4, 4], "resize": "letterbox", "interpolation": "bilinear, antialiased", **NORMAL}
SOUND = {"use": "recording", "rate": 8000, "seconds": 0.001}


def load(tmp_path, before):
    (tmp_path / "preprocessing.json").write_text(json.dumps(before))
    (tmp_path / "postprocessing.json").write_text('{"use": "outputs"}')
    return whole.load(tmp_path)


def prepare(tmp_path, before, value, box=None):
    return load(tmp_path, before).prepare(Raw(value=value, box=box))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def wav(samples, rate=8000, channels=1):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return stream.getvalue()


def test_the_middle_is_cut_out_and_normalised(tmp_path):
    """Of 4x2 pixels the middle 2x2; (byte / 255 - mean) / deviation in each channel."""
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, 1:3] = [[[51, 102, 255], [0, 0, 0]], [[255, 255, 255], [102, 51, 204]]]
    inputs = prepare(tmp_path, IMAGE, png(pixels)).inputs
    assert inputs.shape == (1, 3, 2, 2) and inputs.dtype == np.float32
    assert inputs[0, :, 0, 0] == pytest.approx([0.0, 0.0, 0.25], abs=1e-6)
    assert inputs[0, :, 0, 1] == pytest.approx([-0.4, -1.6, -0.25]) and inputs[0, 0, 1, 0] == pytest.approx(1.6)
    assert inputs[0, :, 1, 1] == pytest.approx([0.4, -0.8, 0.15])


def test_bgr_and_a_white_of_255(tmp_path):
    caffe = {"mean": [104.0, 117.0, 123.0], "deviation": [1.0, 2.0, 4.0], "order": "bgr", "scale": 255.0}
    inputs = prepare(tmp_path, {**IMAGE, **caffe}, png(np.full((2, 2, 3), (223, 117, 4)))).inputs
    assert inputs[0, :, 0, 0] == pytest.approx([-100.0, 0.0, 25.0])


def test_a_letterbox_has_grey_around_and_a_window_back(tmp_path):
    prepared = prepare(tmp_path, FITTED, png(np.full((10, 20, 3), 255)))
    blue = prepared.inputs[0, 2] * 2.0 + 0.5
    assert blue[0] == pytest.approx([114 / 255] * 4) and blue[1] == pytest.approx([1.0] * 4) and blue[3, 0] < 0.5
    assert prepared.window.to_picture(np.array([4.0, 3.0])).tolist() == [20.0, 10.0]


def test_paths_bytes_images_and_arrays_are_the_same_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))
    ways = [tmp_path / "a.png", str(tmp_path / "a.png"), png(pixels), Image.fromarray(pixels), pixels]
    made = [prepare(tmp_path, IMAGE, way).inputs for way in ways]
    assert all(np.array_equal(each, made[0]) for each in made) and made[0].std() > 0


def test_a_figure_is_in_the_middle_with_its_padding(tmp_path):
    """A box of 10x20 at (30, 40) with half as much again: 24 rows are 24 pixels, so a pixel is 24 / 30 of one."""
    about = {"use": "figure", "size": [24, 24], "padding": 0.5, **NORMAL}
    window = prepare(tmp_path, about, np.zeros((100, 90, 3), np.uint8), (30, 40, 10, 20)).window
    assert window.scale == pytest.approx((0.8, 0.8)) and window.to_picture(np.array([12, 12])) == pytest.approx([35, 50])
    whole_picture = prepare(tmp_path, about, np.zeros((100, 90, 3), np.uint8)).window
    assert whole_picture.to_picture(np.array([12, 12])) == pytest.approx([45, 50])


def test_a_recording_is_the_mean_of_its_channels_in_the_middle_of_silence(tmp_path):
    stereo = wav([[8192, 16384], [-16384, 0], [32767, 32767], [0, 8192]], channels=2)
    made = prepare(tmp_path, SOUND, stereo).inputs
    assert made.shape == (1, 1, 8)
    assert made[0, 0] == pytest.approx([0, 0, 0.375, -0.25, 32767 / 32768, 0.125, 0, 0])
    floats = np.array([0.375, -0.25, 32767 / 32768, 0.125], np.float32)
    assert np.array_equal(prepare(tmp_path, SOUND, floats).inputs, made)
    assert np.array_equal(prepare(tmp_path, SOUND, (floats, 8000)).inputs, made)


def test_another_rate_is_resampled(tmp_path):
    tone = np.sin(2 * np.pi * 500 * np.arange(1600) / 16000).astype(np.float32)
    made = prepare(tmp_path, {**SOUND, "seconds": 0.1}, (tone, 16000)).inputs[0, 0]
    wanted = np.sin(2 * np.pi * 500 * np.arange(800) / 8000)
    assert np.abs(made - wanted)[50:-50].max() < 2e-3


def test_raw_samples_come_back_from_their_file():
    raws = [
        Raw(value=b"abc"),
        Raw(value="Zürich"),
        Raw(value=["a", "b"]),
        Raw(value=np.arange(3)),
        Raw(value=b"x", box=(1, 2, 3, 4)),
    ]
    raws.append(Raw(value={"left": np.ones(2), "ids": np.arange(2)}))
    back = unpack(pack(raws))
    assert [each.value for each in back[:3]] == [b"abc", "Zürich", ["a", "b"]] and back[3].value.tolist() == [0, 1, 2]
    assert back[4].box == (1, 2, 3, 4) and list(back[5].value) == ["left", "ids"]
    noise = [Raw(value=np.random.default_rng(number).bytes(1000)) for number in range(20)]
    content, count = fitting(noise, 5000)
    assert len(content) <= 5000 and 2 <= count <= 4 and fitting(noise, 99) == (b"", 0)


@pytest.mark.parametrize("name", ["0.file.x", "1.file", "0.shell", "-1.file", "a", "99999999999.file"])
def test_other_names_are_no_raw_samples(name):
    with pytest.raises(ValueError, match="sample"):
        unpack({name: np.zeros(3, np.uint8)})


def bomb(width, height):
    """A PNG whose head says so many pixels, of a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("before", "value", "words"),
    [
        (IMAGE, bomb(50000, 50000), "pixels"),
        (IMAGE, bomb(13000, 11000), "at most 134,217,728"),
        (IMAGE, bomb(300, 300), "cannot be decoded"),
        (IMAGE, b"", "no picture that can be read"),
        (IMAGE, b"<html>", "no picture that can be read"),
        (IMAGE, "no/such.png", "No such file"),
        (IMAGE, png(np.random.default_rng(0).integers(0, 255, (9, 9, 3)))[:150], "the picture cannot be decoded"),
        (IMAGE, np.zeros((4, 4), np.float32), "float32"),
        (IMAGE, 7, "an int is no picture"),
        (FITTED, np.zeros((0, 4, 3), np.uint8), "pictures are uint8"),
        (SOUND, b"RIFF", "the recording cannot be read"),
        (SOUND, wav([]), "0 samples"),
        (SOUND, wav([1, 2, 3])[:-3], "breaks off"),
        (SOUND, (np.zeros(4, np.float32), 0), "rate is samples a second"),
        (SOUND, (np.zeros(4, np.float32), 99991 * 8), "common divisor"),
        (SOUND, np.array(["a"]), "is no recording"),
        (SOUND, None, "a NoneType is no recording"),
        ({"use": "array"}, [1, 2], "an array of the input's shape"),
    ],
)
def test_what_is_no_sample_is_told_in_one_line(before, value, words, tmp_path):
    with pytest.raises(UserError, match=words) as told:
        prepare(tmp_path, before, value)
    assert len(told.value.faults) == 1 and "\n" not in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize("box", [(1, 2, 3), (0, 0, 0, 5), (0, 0, float("nan"), 5), (1e9, 0, 5, 5)])
def test_what_is_no_box_is_told(box, tmp_path):
    about = {"use": "figure", "size": [24, 24], "padding": 0.5, **NORMAL}
    with pytest.raises(UserError, match="box is x, y, width and height"):
        prepare(tmp_path, about, np.zeros((9, 9, 3), np.uint8), box)
    with pytest.raises(UserError, match="takes the whole picture"):
        prepare(tmp_path, IMAGE, np.zeros((9, 9, 3), np.uint8), (0, 0, 5, 5))


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({}, "names no preprocessing"),
        ({"use": "os"}, "asks for 'os'"),
        ({"use": "image"}, "KeyError"),
        ({**IMAGE, "size": [10**9, 10**9]}, "from 1 to 16384"),
        ({**IMAGE, "size": [2.5, 2]}, "from 1 to 16384"),
        ({**IMAGE, "short_side": 10**7}, "from 1 to 32768"),
        ({**IMAGE, "mean": [float("nan")] * 3}, "finite"),
        ({**IMAGE, "deviation": [0, 1, 1]}, "above 0"),
        ({**IMAGE, "interpolation": "__class__"}, "__class__"),
        ({**FITTED, "resize": "crop"}, "crop"),
        ({**SOUND, "rate": 10**9}, "Hz"),
        ({**SOUND, "rate": 10**6, "seconds": 3600}, "16777216 samples"),
        ({**SOUND, "seconds": 60, "log_mel": {"mels": 10**7}}, "mels"),
        ({**SOUND, "seconds": 1000, "log_mel": {"window_ms": 900, "hop_ms": 0.2}}, "frames"),
        ({**SOUND, "log_mel": {"run": 1}}, "TypeError"),
        ({"use": "text", "tokenizer_sha256": "", "length": 8, "inputs": []}, "no tokenizer.json"),
        ({"use": "figure", "size": [9, 9], "padding": 1e9, **NORMAL}, "padding"),
    ],
)
def test_what_preprocessing_json_may_not_say(before, words, tmp_path):
    with pytest.raises(UserError, match=words) as told:
        load(tmp_path, before)
    assert len(told.value.faults) == 1 and "\n" not in str(told.value)


def test_a_picture_of_pillow_stays_as_it_is(tmp_path):
    """A JPEG is decoded smaller, or in grey, for small inputs: not the one that an application still holds."""
    pixels = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), 50, 0), 50, 1)
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    grey = {**IMAGE, "mean": [0.5], "deviation": [0.5], "order": "grey"}
    with Image.open(tmp_path / "large.jpg") as picture:
        windows = [prepare(tmp_path, before, picture).window for before in (IMAGE, IMAGE, grey)]
        assert (picture.size, picture.mode) == ((400, 300), "RGB")
    assert [window.picture for window in windows] == [(400, 300)] * 3, "answers are in pixels of the same picture"


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_sounds_lying_down_or_without_a_full_scale_are_refused(dtype, tmp_path):
    """(channels, samples), as some libraries give it, would be one sample of the mean of all."""
    sound = np.zeros((2, 400) if dtype == "float32" else 400, dtype)
    with pytest.raises(UserError, match="transpose it" if dtype == "float32" else "full scale"):
        prepare(tmp_path, SOUND, sound)
