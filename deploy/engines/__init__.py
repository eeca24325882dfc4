"""Engines: what turns an ONNX file into something that runs, and runs it.

To add one: a file here with a final subclass of ``Engine`` (and its ``Session``), and a line in ``ENGINES``.
"""

from __future__ import annotations

from deploy.engines.base import Affinity, BuildPlan, Engine, EngineError, Session
from profiles.tables import look_up, with_entry_points

ENGINES: dict[str, str] = {
    "openvino": "deploy.engines.openvino:OpenVINO",
    "onnxruntime": "deploy.engines.onnxruntime:ONNXRuntime",
    "ort-mobile": "deploy.engines.ort_mobile:ORTMobile",
    "executorch": "deploy.engines.executorch:ExecuTorch",
    "tensorrt": "deploy.engines.tensorrt:TensorRT",
}


def engines() -> dict[str, str]:
    """The table of engines, with those that installed packages add."""
    return with_entry_points(ENGINES, "edge_compress.engines")


def engine(name: str) -> Engine:
    """The engine ``name``; its runtime is imported only when it builds or opens something."""
    found: Engine = look_up("engine", name, engines())()
    return found


__all__ = ["ENGINES", "Affinity", "BuildPlan", "Engine", "EngineError", "Session", "engine", "engines"]
