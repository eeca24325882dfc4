"""Files of arrays whose headers state anything: what is stated is held against what is there, before it is read."""

import io
import struct
import zipfile

import numpy as np
import pytest

from deploy.files.npz import MOST_ARRAYS, ArraysError, array_names, read_array, read_arrays


def npy(kind, shape, content=b"", version=1):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content


def zipped(path, form=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", form) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.zeros((0, 4), np.float32), np.float64(3.5), np.array(["a", "é"]), np.ones(3, ">i2")],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read_as_it_was(save, array, tmp_path):
    save(tmp_path / "a.npz", x=array, y=np.asfortranarray(np.eye(3)))
    np.save(tmp_path / "a.npy", array)
    assert array_names(tmp_path / "a.npz") == ["x", "y"]
    for read in (read_arrays(tmp_path / "a.npz", ["x"])["x"], read_array(tmp_path / "a.npy")):
        assert read.dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(read, array)


WRONG = {
    "more than there is": npy("|u1", (10**12,)),
    "one more than there is": npy("|u1", (9,), bytes(8)),
    "one less than there is": npy("|u1", (7,), bytes(8)),
    "more than 64 bits": npy("<f8", (2**62, 2**62)),
    "a side below 0": npy("|u1", (-1, -8), bytes(8)),
    "another kind": npy("<f8", (8,), bytes(8)),
    "brackets": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 60_000,
    "no dictionary": b"\x93NUMPY\x01\x00" + struct.pack("<H", 2) + b"1\n",
    "a header of another version": npy("|u1", (8,), bytes(8), version=9),
    "a header of 4 GB": b"\x93NUMPY\x02\x00" + b"\xff" * 4,
    "nothing": b"",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=list(WRONG))
def test_an_array_that_states_another_size_than_it_has_is_told(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    for read in (lambda: read_array(tmp_path / "a.npy"), lambda: read_arrays(zipped(tmp_path / "a.npz", x=content))):
        with pytest.raises(ArraysError, match="states a shape|holds no plain arrays"):
            read()


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_told(tmp_path):
    zeros = bytes(2**24)
    path = zipped(tmp_path / "a.npz", **{f"x{number}": npy("|u1", (2**24,), zeros) for number in range(17)})
    assert path.stat().st_size < 2**20
    with pytest.raises(ArraysError, match=r"unpacks to 285,\d+,\d+ bytes, more than 100 times its size"):
        array_names(path)


def test_objects_are_never_read_and_do_no_harm_beside_others(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(2), y=np.array([{}, 1], object))
    np.save(tmp_path / "a.npy", np.array([{}], object))
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz", ["x"])["x"], np.ones(2))
    for read in (lambda: read_arrays(tmp_path / "a.npz"), lambda: read_array(tmp_path / "a.npy")):
        with pytest.raises(ArraysError, match="pickles that could run code"):
            read()


def test_too_many_arrays_and_other_files_are_told(tmp_path):
    content = io.BytesIO()
    np.save(content, np.ones(1))
    many = zipped(tmp_path / "a.npz", zipfile.ZIP_STORED, **{f"x{n}": content.getvalue() for n in range(MOST_ARRAYS + 1)})
    with pytest.raises(ArraysError, match=r"holds 1,025 arrays; at most 1,024"):
        array_names(many)
    np.save(tmp_path / "a.npy", np.ones(1))
    with pytest.raises(ArraysError, match="holds one array"):
        read_arrays(tmp_path / "a.npy")
    (tmp_path / "text").write_text("no array")
    with pytest.raises(ArraysError, match=r"is no \.npz file"):
        read_arrays(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")
