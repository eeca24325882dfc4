"""CIFAR's files are written here as they are published: pickles as Python 2 wrote them, and the binary rows."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.cifar import CLASSES_100, cifar10, cifar100
from compress.data.pickle_reader import NAMES as NAMED
from compress.data.pickle_reader import PickledArray, PickledName, PickledType, read_pickled
from profiles.errors import UserError

ROWS = 12
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
DTYPE = b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def python2(held, kind=b"u1"):
    """What Python 2 and the numpy of its days made of ``held`` with protocol 2, without the memo."""
    if isinstance(held, dict):
        return b"}(" + b"".join(python2(key, kind) + python2(value, kind) for key, value in held.items()) + b"u"
    if isinstance(held, list):
        return b"](" + b"".join(python2(value, kind) for value in held) + b"e"
    if isinstance(held, bytes):
        return b"T" + struct.pack("<i", len(held)) + held
    if isinstance(held, int):
        return b"J" + struct.pack("<i", held)
    shape = b"(" + b"".join(python2(int(side)) for side in held.shape) + b"t"
    return ARRAY + b"(K\x01" + shape + DTYPE % kind + b"I00\n" + python2(held.tobytes()) + b"tb"


def whole(held, kind=b"u1"):
    return b"\x80\x02" + python2(held, kind) + b"."


def rows(seed, classes, count=ROWS):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count).tolist()


def batch(images, labels):
    names = [b"image_%d.png" % number for number in range(len(labels))]
    return {b"batch_label": b"training batch 1 of 5", b"labels": labels, b"data": images, b"filenames": names}


NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def python_folder(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(whole(batch(*rows(seed, 10))))
    return folder


def binary_folder(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        images, labels = rows(seed, 10)
        (folder / f"{name}.bin").write_bytes(np.hstack([np.array(labels, np.uint8)[:, None], images]).tobytes())
    return folder


def read(folder, **options):
    return cifar10(path=str(folder), **{"validation": 10, "calibration": 8, **options})


def test_the_writer_of_this_test_writes_what_pickle_reads():
    images, labels = rows(0, 10)
    held = pickle.loads(whole(batch(images, labels)), encoding="bytes")
    np.testing.assert_array_equal(held[b"data"], images)
    assert held[b"labels"] == labels
    assert held[b"filenames"][3] == b"image_3.png"


def test_both_formats_give_the_same_images(tmp_path):
    python, binary = read(python_folder(tmp_path / "p")), read(binary_folder(tmp_path / "b"))
    assert python.fingerprint() == binary.fingerprint() != read(tmp_path / "p", seed=1).fingerprint()
    assert [len(part) for part in (python.train, python.validation, python.calibration, python.test)] == [50, 10, 8, 12]
    assert python.classes[3] == "cat"
    assert python.preprocessing["size"] == [32, 32]


def test_a_row_is_red_then_green_then_blue_and_line_by_line(tmp_path):
    """A red point at line 2, column 5 is byte 2 * 32 + 5 of the row; blue starts at byte 2048."""
    folder = python_folder(tmp_path)
    images = np.zeros((2, 3072), np.uint8)
    images[0, 2 * 32 + 5] = images[1, 2048] = 255
    (folder / "test_batch").write_bytes(whole(batch(images, [3, 7])))
    loaded = read(folder, mean=(0.0,) * 3, deviation=(1.0,) * 3).test.load(np.arange(2))
    assert np.argwhere(loaded.inputs).tolist() == [[0, 0, 2, 5], [1, 2, 0, 0]]
    assert loaded.targets.tolist() == [3, 7]


def test_the_folder_that_the_archive_unpacks_into_is_found(tmp_path):
    python_folder(tmp_path / "cifar-10-batches-py")
    assert len(read(tmp_path).test) == ROWS


def test_files_saved_again_by_this_python_and_numpy_are_read(tmp_path):
    folder = python_folder(tmp_path)
    before = read(folder).fingerprint()
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(pickle.dumps(batch(*rows(seed, 10)), protocol=4))
    assert read(folder).fingerprint() == before


def test_cifar100_has_the_fine_labels_of_both_formats(tmp_path):
    held = {}
    for seed, name in enumerate(("train", "test")):
        images, fine = rows(seed, 100, 30)
        coarse = [label % 20 for label in fine]
        held[name] = fine
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_bytes(whole({b"data": images, b"fine_labels": fine, b"coarse_labels": coarse}))
        lead = np.array([coarse, fine], np.uint8).T
        (tmp_path / "b" / f"{name}.bin").write_bytes(np.hstack([lead, images]).tobytes())
    python, binary = (cifar100(path=str(tmp_path / kind), validation=0.2, calibration=8) for kind in "pb")
    assert python.fingerprint() == binary.fingerprint()
    assert python.test.labels.tolist() == held["test"]
    assert python.classes == CLASSES_100
    assert len(set(CLASSES_100)) == 100
    assert (CLASSES_100[0], CLASSES_100[99]) == ("apple", "worm")


NUMPY_ARRAY = b"cnumpy\nndarray\n"
PIECES = [
    b"cos\nsystem\n",
    b"cnumpy\ndtype\n",
    NUMPY_ARRAY,
    b"U\x02u1",
    b"K\x01",
    b"N",
    *(bytes([b]) for b in b"()}]]tldsuaeRb0012QoN\x85\x86\x87\x88\x81\x92"),
]
DATA = [
    b"1",
    b"",
    b"text",
    7,
    -7,
    300,
    70_000,
    2**40,
    None,
    True,
    False,
    "word",
    "",
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
]


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data_is_what_an_unpickler_makes_of_it(protocol):
    held = [*(d for d in DATA if protocol > 2 or not isinstance(d, bytes)), DATA[3:], {"a": [1], "b": {}}, [], {"c": 1}]
    content = pickle.dumps(held, protocol=protocol)
    assert read_pickled(content) == pickle.loads(content) == held


def test_what_is_noted_twice_is_one_thing():
    twice = [1]
    held = read_pickled(pickle.dumps([twice, twice], protocol=2))
    assert held[0] is held[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"cbuiltins\neval\n(S'1'\ntR.", "names builtins.eval", id="a call"),
        pytest.param(b"(S'x'\nibuiltins\neval\n.", "instruction INST", id="an instance by its old instruction"),
        pytest.param(NUMPY_ARRAY + b")\x81.", "instruction NEWOBJ", id="an instance by its new instruction"),
        pytest.param(
            b"\x80\x04\x8c\x05numpy\x94\x8c\x11ndarray.__class__\x94\x93.", "names numpy.nd", id="a name with a dot"
        ),
        pytest.param(NUMPY_ARRAY + b"}b.", "no array", id="state for a name"),
        pytest.param(b"](K\x01eNb.", "no array", id="state for a list"),
        pytest.param(NUMPY_ARRAY + b")R}b.", "not enough values", id="state that is no array's"),
        pytest.param(b"\x80\x02\x82\x01.", "instruction EXT1", id="a registered extension"),
        pytest.param(b"P1\n.", "instruction PERSID", id="a persistent object"),
        pytest.param(b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "bytearray8", id="bytes beyond the end"),
        pytest.param(b"K\x01K\x02.", "too many values", id="more than one value"),
        pytest.param(b"}K\x01a.", "no list", id="a value for what is no list"),
        pytest.param(b"]K\x01K\x02s.", "no dictionary", id="an entry for what is no dictionary"),
    ],
)
def test_no_instruction_of_a_pickle_does_more_than_hold_data(content, words):
    with pytest.raises((UserError, ValueError, TypeError), match=words):
        read_pickled(content)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_whatever_a_file_says_nothing_but_data_comes_of_it(content):
    try:
        held = read_pickled(content + b".")
    except (UserError, ValueError, TypeError, LookupError, AttributeError):
        return
    assert type(held) in (dict, list, tuple, bytes, str, int, bool, type(None), PickledName, PickledArray, PickledType)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    """A good batch, and before it a call of os.mkdir whose result is dropped."""
    folder, target = python_folder(tmp_path / "data"), tmp_path / "made by a pickle"
    call = b"cos\nmkdir\n(" + python2(bytes(target)) + b"tR0"
    (folder / "data_batch_2").write_bytes(b"\x80\x02" + call + python2(batch(*rows(1, 10))) + b".")
    with pytest.raises(UserError, match=r"data_batch_2: names os\.mkdir: .*nothing was run; do not trust this file"):
        read(folder)
    assert not target.exists()
    assert pickle.loads((folder / "data_batch_2").read_bytes(), encoding="bytes")[b"labels"] == rows(1, 10)[1]
    assert target.exists(), "the file of this test is harmless, so the test shows nothing"


@pytest.mark.parametrize(
    "name", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy\nfromfile", "_codecs\nencode", "copyreg\n_reconstructor"]
)
def test_every_other_name_is_refused(tmp_path, name):
    folder = python_folder(tmp_path)
    (folder / "test_batch").write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(UserError, match=f"test_batch: names {name.replace(chr(10), '.')}"):
        read(folder)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_name_takes_no_state(tmp_path, name):
    """A state given to the name itself, not to an object of it."""
    folder = python_folder(tmp_path)
    state = b"N}U\x05arrayK\x01s\x86b."
    (folder / "test_batch").write_bytes(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + state)
    with pytest.raises(UserError, match="test_batch is not a batch of CIFAR"):
        read(folder)


def test_objects_inside_an_array_are_refused(tmp_path):
    """numpy takes bytes for pointers where a forged state says so."""
    folder = python_folder(tmp_path)
    images, labels = rows(0, 10)
    (folder / "test_batch").write_bytes(whole(batch(images, labels), kind=b"O8"))
    with pytest.raises(UserError, match=r"test_batch: holds an array of type b'O8'; CIFAR's are of bytes"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a batch of CIFAR"),
        (whole(batch(*rows(0, 10)))[:5000], "is not a batch of CIFAR"),
        (b"not a pickle at all", "is not a batch of CIFAR"),
        (whole({b"data": rows(0, 10)[0], b"fine_labels": [1] * ROWS}), "has no 'labels' beside 'data'"),
        (whole([b"data"]), "has no 'labels' beside 'data'"),
        (whole(batch(rows(0, 10)[0], [1] * 5)), r"images of shape \(12, 3072\); expected: \(5, 3072\)"),
        (whole(batch(rows(0, 10)[0], [-1] * ROWS)), "labels that are not numbers from 0 on"),
        (whole(batch(rows(0, 10)[0], [10] * ROWS)), "has the label 10; allowed: 0 to 9"),
    ],
)
def test_python_files_that_are_no_good(tmp_path, content, words):
    folder = python_folder(tmp_path)
    (folder / "data_batch_4").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(folder)


def test_binary_files_of_a_wrong_size_are_all_named(tmp_path):
    folder = binary_folder(tmp_path)
    (folder / "data_batch_1.bin").write_bytes(bytes(3072))
    (folder / "data_batch_5.bin").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read(folder)
    assert [fault.partition(" has ")[2].split(";")[0] for fault in caught.value.faults] == ["3072 bytes", "0 bytes"]
    assert "rows of 3073 bytes" in caught.value.faults[0]


def test_missing_files_are_named_for_both_formats(tmp_path):
    folder = python_folder(tmp_path)
    (folder / "data_batch_3").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(UserError) as caught:
        read(folder)
    (fault,) = caught.value.faults
    assert "Python format: no data_batch_3, test_batch;" in fault
    assert "binary format: no data_batch_1.bin, " in fault
    assert "cifar-10-batches-py or cifar-10-batches-bin" in fault
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
