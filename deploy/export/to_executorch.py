"""torch -> ExecuTorch: a captured program as a ``.pte`` file of XNNPACK kernels. Host only; needs torch and executorch.

In int8 XNNPACK's partitioner folds the program's pairs (``deploy.export.program_pairs``) into its kernels.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    import torch

    with silence_exporter():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        graph = to_graph_module(program)
        if integers is not None:
            quantize(graph, integers)
        try:
            with torch.no_grad():
                fixed = torch.export.export(graph.eval(), example_inputs(program, batch))
            names = input_names(program)
            named = {NAMES: torch.tensor([*json.dumps(names).encode()], dtype=torch.uint8)} if names else None
            lowered = to_edge_transform_and_lower(fixed, partitioner=[XnnpackPartitioner()], constant_methods=named)
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # the lowering's many passes raise as they like
            raise EngineError(f"ExecuTorch cannot lower the model: {str(error).splitlines()[0][:200]}") from error
