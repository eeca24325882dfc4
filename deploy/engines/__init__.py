"""Engines: runtimes that build a model file and run it.

To add one: a file here with a final subclass of ``Engine`` (and its ``Session``), and a line in ``ENGINES``. One with a
file format of its own adds an ``ExportFormat`` too (``deploy.engines.exports``).
"""

from __future__ import annotations

from deploy.engines.base import Affinity, BuildPlan, Engine, EngineError, Session
from deploy.engines.exports import EXPORTS, ExportFormat, export_format, exports
from profiles.tables import look_up, with_entry_points

ENGINES: dict[str, str] = {
    "openvino": "deploy.engines.openvino:OpenVINO",
    "openvino-gpu": "deploy.engines.openvino:OpenVINOGPU",
    "openvino-npu": "deploy.engines.openvino:OpenVINONPU",
    "onnxruntime": "deploy.engines.onnxruntime:ONNXRuntime",
    "onnxruntime-cuda": "deploy.engines.ort_providers:OrtCuda",
    "onnxruntime-tensorrt": "deploy.engines.ort_providers:OrtTensorRT",
    "onnxruntime-openvino": "deploy.engines.ort_providers:OrtOpenVINO",
    "onnxruntime-qnn": "deploy.engines.ort_providers:OrtQnn",
    "onnxruntime-coreml": "deploy.engines.ort_providers:OrtCoreML",
    "onnxruntime-nnapi": "deploy.engines.ort_providers:OrtNnapi",
    "onnxruntime-xnnpack": "deploy.engines.ort_providers:OrtXnnpack",
    "onnxruntime-directml": "deploy.engines.ort_providers:OrtDirectML",
    "ort-mobile": "deploy.engines.ort_mobile:ORTMobile",
    "executorch": "deploy.engines.executorch:ExecuTorch",
    "executorch-coreml": "deploy.engines.executorch:ExecuTorchCoreML",
    "executorch-vulkan": "deploy.engines.executorch:ExecuTorchVulkan",
    "ncnn": "deploy.engines.ncnn:Ncnn",
    "mnn": "deploy.engines.mnn:Mnn",
    "litert": "deploy.engines.litert:LiteRT",
    "tensorrt": "deploy.engines.tensorrt:TensorRT",
}


def engines() -> dict[str, str]:
    """Return the table of engines, with those that installed packages add."""
    return with_entry_points(ENGINES, "edge_compress.engines")


def engine(name: str) -> Engine:
    """Return the engine ``name``; its runtime is imported only when it builds or opens something."""
    result: Engine = look_up("engine", name, engines())()
    return result


__all__ = [
    "ENGINES",
    "EXPORTS",
    "Affinity",
    "BuildPlan",
    "Engine",
    "EngineError",
    "ExportFormat",
    "Session",
    "engine",
    "engines",
    "export_format",
    "exports",
]
