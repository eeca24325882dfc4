"""What is read from source is what an import gives, for everything that is listed; and listing imports no PyTorch."""

import os
import subprocess
import sys
import textwrap

import pytest

from compress.cli.listing import _imported_signature, _shown, _signature, _stage
from compress.cli.static import UnreadableError, definition_of, source_module
from compress.losses import LOSSES
from compress.methods.distillation.loss_weights import WEIGHTS
from compress.stages import STAGES
from profiles.tables import load_object
from tests.conftest import ROOT


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_reads_as_it_is_made(name):
    stage, definition = load_object(STAGES[name])(), definition_of(STAGES[name])
    assert {key: _shown(value) for key, value in definition.fields().items()} == {
        key: _shown(value) for key, value in stage.fields().items()
    }
    assert list(definition.fields()) == list(stage.fields())
    assert _stage(STAGES[name])[0] == definition.first_line != ""


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_reads_as_it_is_imported(name):
    imported = _imported_signature(load_object(LOSSES[name]))
    definition_of(LOSSES[name])  # from source, not by falling back on an import
    assert _signature(LOSSES[name]) == imported


def test_weights_of_losses_read_as_they_are_imported():
    assert source_module("compress.methods.distillation.loss_weights").constant("WEIGHTS") == WEIGHTS
    for reference in WEIGHTS.values():
        assert _signature(reference).options == _imported_signature(load_object(reference)).options


def test_what_computes_its_defaults_is_imported(tmp_path, monkeypatch):
    source = """
        'Losses of a test.'
        import math

        def loss(student_logits, *, power=math.sqrt(4)):
            "Give a root."
    """
    (tmp_path / "computing.py").write_text(textwrap.dedent(source).lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnreadableError, match=r"math.sqrt\(4\)"):
        definition_of("computing:loss").options()
    found = _signature("computing:loss")
    assert (found.family, found.first_line, found.options) == ("Losses of a test.", "Give a root.", "power = 2.0")


@pytest.mark.parametrize("command", ["--help", "stages", "losses", "profiles", "engines"])
def test_listing_loads_no_torch_and_no_runtime(command):
    """But ONNX Runtime for engines: which providers a build of it has it alone can say, in a tenth of a second."""
    code = (
        f"import sys; from compress.cli.main import entry; entry([{command!r}]); "
        "print([m for m in ('torch', 'onnx', 'openvino', 'onnxruntime') if m in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    allowed = ["onnxruntime"] if command in ("profiles", "engines") else []
    assert done.stderr.strip() in ("[]", str(allowed)) and done.stdout


def test_doctor_agrees_with_torch_on_what_gpu_there_is():
    import torch

    from compress.cli.doctor import _cuda

    assert (_cuda() == "none") == (not torch.cuda.is_available())
