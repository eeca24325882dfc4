"""torch -> ExecuTorch: a captured program as a ``.pte`` file for XNNPACK, Core ML or Vulkan. Host only; needs torch and
executorch.

In int8 XNNPACK's partitioner folds the program's pairs (``deploy.export.program_pairs``) into its kernels. Core ML and
Vulkan are given floats, which they compute in halves.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

from deploy.engines.base import EngineError
from deploy.engines.executorch import NAMES
from deploy.export.program_pairs import QuantizationSpec, example_inputs, quantize
from deploy.export.to_onnx import input_names, silence_exporter, to_graph_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def to_pte(program: ExportedProgram, batch: int, integers: QuantizationSpec | None = None) -> bytes:
    """Lower the float ``program`` to XNNPACK for ``batch`` samples, in fp32, or in int8 with ``integers``.

    Operators without an XNNPACK kernel run in ExecuTorch's portable ones.

    Raises:
        EngineError: ExecuTorch cannot lower the program; carries its reason.
    """
    with silence_exporter():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return _lowered(program, batch, integers, XnnpackPartitioner())


def to_coreml_pte(program: ExportedProgram, batch: int, integers: QuantizationSpec | None = None) -> bytes:
    """Lower the float ``program`` to Core ML in halves, on whatever of an Apple device it likes.

    Raises:
        EngineError: it cannot be lowered, or takes nothing of the program.
    """
    with silence_exporter(), contextlib.redirect_stderr(io.StringIO()):
        import coremltools
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        specs = CoreMLBackend.generate_compile_specs(
            compute_unit=coremltools.ComputeUnit.ALL,
            compute_precision=coremltools.precision.FLOAT16,
            minimum_deployment_target=coremltools.target.iOS17,
        )
        return _lowered(program, batch, integers, CoreMLPartitioner(compile_specs=specs))


def to_vulkan_pte(program: ExportedProgram, batch: int, integers: QuantizationSpec | None = None) -> bytes:
    """Lower the float ``program`` to Vulkan in halves, for the GPU of a phone or board.

    Raises:
        EngineError: it cannot be lowered, or takes nothing of the program.
    """
    with silence_exporter():
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return _lowered(program, batch, integers, VulkanPartitioner({"force_fp16": True}))


def _lowered(program: ExportedProgram, batch: int, integers: QuantizationSpec | None, partitioner: Any) -> bytes:
    """Lower a program to a backend; what that does not take runs in portable operators."""
    import torch

    with silence_exporter():
        from executorch.exir import to_edge_transform_and_lower

        graph = to_graph_module(program)
        if integers is not None:
            quantize(graph, integers)
        try:
            with torch.no_grad():
                fixed = torch.export.export(graph.eval(), example_inputs(program, batch))
            names = input_names(program)
            named = {NAMES: torch.tensor([*json.dumps(names).encode()], dtype=torch.uint8)} if names else None
            lowered = to_edge_transform_and_lower(fixed, partitioner=[partitioner], constant_methods=named)
            if not any("executorch_call_delegate" in str(node.target) for node in lowered.exported_program().graph.nodes):
                raise EngineError(f"{type(partitioner).__name__} of ExecuTorch takes nothing of the model")
            return bytes(lowered.to_executorch().buffer)
        except EngineError:
            raise
        except Exception as error:  # the lowering's many passes raise as they like
            raise EngineError(f"ExecuTorch cannot lower the model: {str(error).splitlines()[0][:200]}") from error
