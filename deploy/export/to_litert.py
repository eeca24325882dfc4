"""torch -> LiteRT: a captured program as a ``.tflite`` file, by ``litert-torch``. Host only.

The conversion runs in a process of its own: it imports JAX beside torch and takes half a minute of a small network. What
crosses is the program with a fixed batch, its pairs (``deploy.export.program_pairs``) inserted; LiteRT folds them into
its integer kernels, so that inputs and outputs that have a pair are int8 in the file.

Run as ``python -m deploy.export.to_litert PROGRAM MODEL`` it is that process.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.engines.base import EngineError
from deploy.export.converter import run_converter
from deploy.export.program_pairs import QuantizationSpec, define_operators, example_inputs, quantize
from deploy.export.to_onnx import input_names, silence_exporter, to_graph_module
from deploy.files.confined import python_environment
from profiles.errors import UserError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LONGEST_S = 3600.0


def to_litert(program: ExportedProgram, batch: int, integers: QuantizationSpec | None = None) -> bytes:
    """Convert the float ``program`` for ``batch`` samples, in fp32, or in int8 with ``integers``.

    Raises:
        UserError: litert-torch is not installed.
        EngineError: it cannot convert the program; carries its last words.
    """
    import torch

    if not _is_installed():
        raise UserError("litert-torch, which makes LiteRT's files, is not installed; pip install 'edge-compress[litert]'")
    if names := input_names(program):
        raise EngineError(f"LiteRT is given inputs by place, and the model takes them by name ({', '.join(names)})")
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "program.pt2", Path(scratch) / "model.tflite"
        with silence_exporter(), torch.no_grad():
            graph = to_graph_module(program)
            if integers is not None:
                quantize(graph, integers, constants=False)
            torch.export.save(torch.export.export(graph.eval(), example_inputs(program, batch)), given)
        command = [sys.executable, "-m", "deploy.export.to_litert", str(given), str(made)]
        environment = {**python_environment(), "JAX_PLATFORMS": "cpu"}
        run_converter("LiteRT", command, made.parent, [made.name], longest_s=LONGEST_S, environment=environment)
        return made.read_bytes()


def _is_installed() -> bool:
    return importlib.util.find_spec("litert_torch") is not None


def main(given: str, made: str) -> None:
    """Convert the saved program in the file ``given``; write ``made``."""
    import litert_torch
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    define_operators()
    program = torch.export.load(given)
    has_pairs = any("quantize_per" in str(node.target) for node in program.graph.nodes)
    static = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    module = program.module()
    converted = litert_torch.convert(
        module, example_inputs(program, 1), quant_config=QuantConfig(pt2e_quantizer=static) if has_pairs else None
    )
    converted.export(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
