import pytest

from calib.tensorrt_table import format_table, parse_table

SCALES = {"input": (0.5, 0), "layer1/Conv:out": (1.0, 0)}


def test_by_hand_and_back():
    text = format_table(SCALES)
    assert text == "TRT-8502-EntropyCalibration2\ninput: 3f000000\nlayer1/Conv:out: 3f800000\n"
    assert parse_table(text) == SCALES


def test_zero_points_and_other_files_are_refused():
    with pytest.raises(ValueError, match="no zero points; x has one"):
        format_table({"x": (1.0, 3)})
    for text in ("", "hello\n"):
        with pytest.raises(ValueError, match="not a calibration table"):
            parse_table(text)
