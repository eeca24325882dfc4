"""Every table resolves, and every file of a plug-in folder is in its table."""

import importlib
import inspect
from pathlib import Path

import pytest

from compress.data import DATA
from compress.losses import LOSSES
from compress.methods.condensation import SETS
from compress.methods.condensation.base import RecoverySet
from compress.methods.distillation.loss_specs import loss_inputs
from compress.methods.distillation.objective import VOCABULARY
from compress.stages import STAGES
from compress.stages.base import Stage
from compress.tasks import TASKS, Task
from deploy.devices import DEVICES, Device
from deploy.engines import ENGINES, EXPORTS, Engine, ExportFormat
from deploy.processing.detection import READERS
from deploy.processing.detection.base import Reader
from deploy.processing.postprocessing import POSTPROCESSING
from deploy.processing.postprocessing.base import Postprocessing
from deploy.processing.preprocessing import PREPROCESSING
from deploy.processing.preprocessing.base import Preprocessing
from profiles.tables import load_object
from tests.conftest import ROOT

FOLDERS = {
    "compress/stages": (STAGES, Stage),
    "compress/tasks": (TASKS, Task),
    "compress/losses": (LOSSES, None),
    "compress/data": (DATA, None),
    "compress/methods/condensation": (SETS, RecoverySet),
    "deploy/engines": (ENGINES, Engine),
    "deploy/devices": (DEVICES, Device),
    "deploy/processing/detection": (READERS, Reader),
    "deploy/processing/preprocessing": (PREPROCESSING, Preprocessing),
    "deploy/processing/postprocessing": (POSTPROCESSING, Postprocessing),
}
HELPERS = {
    "compress/data": {
        "arrays",
        "transforms",
        "fingerprints",
        "given_samples",
        "box_samples",
        "box_transforms",
        "coco_files",
        "audio_files",
        "audio_samples",
        "audio_transforms",
        "recordings",
        "text_files",
        "keypoint_samples",
        "image_folders",
        "mask_samples",
        "coco_shapes",
        "object_rows",
        "paired_files",
        "patches",
        "mask_values",
        "pickle_reader",
        "subset",
        "options",
        "decoding",
        "sized",
        "sequences",
    },
    "compress/tasks": {
        "assignment",
        "draws",
        "drawn_precision",
        "precision",
        "evaluate",
        "box_checks",
        "object_losses",
        "object_precision",
        "thresholds",
    },
    "compress/losses": {"adapters"},
    "compress/methods/condensation": {
        "labels",
        "making",
        "sizes",
        "soft_labels",
        "stored",
        "stored_samples",
        "moves",
        "attention",
        "characteristic",
        "targets",
    },
    "compress/stages": {"trained", "runner"},
    "deploy/devices": {"ssh_connection", "commands"},
    "deploy/engines": {"build_record", "cuda", "exports", "inputs", "placement", "serving", "served"},
    "deploy/processing/preprocessing": {"pixels"},
    "deploy/processing/detection": {"rows", "arrays", "choose", "decode", "objects", "parts", "standalone", "suppression"},
}
"""Files that hold no plug-in: what the plug-ins of a folder share, beside the contract in ``base``."""


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_each_entry_resolves_and_is_documented(folder):
    table, base = FOLDERS[folder]
    for name, reference in table.items():
        found = load_object(reference)
        assert inspect.getdoc(found), f"{name} says nothing of itself"
        if base is not None:
            assert issubclass(found, base)
            assert getattr(found, "__final__", False), f"{name} can be subclassed; leaves are final"


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_each_export_format_resolves_on_the_device_and_on_the_host(name):
    found = load_object(EXPORTS[name])
    assert isinstance(found, ExportFormat)
    assert found.example.format(batch=3, hint="f32") != found.example, "the example runs a batch"
    assert bool(found.packer) == bool(found.decoder), "what packs is decoded on the device"
    for reference in filter(None, (found.exporter, found.packer, found.decoder)):
        assert callable(load_object(reference))


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_each_file_is_in_its_table(folder):
    table, _ = FOLDERS[folder]
    named = {reference.partition(":")[0].rpartition(".")[2] for reference in table.values()}
    files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "base"} - HELPERS.get(folder, set())
    assert files == named


def test_losses_read_only_what_the_vocabulary_has():
    for name, reference in LOSSES.items():
        loss = load_object(reference)
        assert set(loss_inputs(loss)) <= set(VOCABULARY), name
        signature = inspect.signature(loss)
        options = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(p.default is not p.empty for p in options), f"an option of {name} has no default"


def test_every_module_says_what_it_is():
    for package in ("compress", "deploy", "calib", "profiles"):
        for path in Path(ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if name.endswith("__main__"):
                continue
            assert importlib.import_module(name).__doc__, f"{name} has no docstring"
