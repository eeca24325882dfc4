import pytest

from calib.tensorrt_table import read, written

SCALES = {"input": (0.5, 0), "layer1/Conv:out": (1.0, 0)}


def test_by_hand_and_back():
    text = written(SCALES)
    assert text == "TRT-8502-EntropyCalibration2\ninput: 3f000000\nlayer1/Conv:out: 3f800000\n"
    assert read(text) == SCALES


def test_zero_points_and_other_files_are_refused():
    with pytest.raises(ValueError, match="no zero points; x has one"):
        written({"x": (1.0, 3)})
    for text in ("", "hello\n"):
        with pytest.raises(ValueError, match="not a calibration table"):
            read(text)
