"""ONNX Runtime's own format for phones: a ``.ort`` file, optimised here once and read by builds without ONNX.

It is made for Arm whatever machine makes it: the blocked layout of x86 is left out, and s8 Q/DQ pairs become s8
kernels, as ``onnxruntime.tools.convert_onnx_models_to_ort --target_platform arm`` has it (and no float Gemm is made of an
integer product of tokens: ``deploy.engines.onnxruntime``). That tool keeps a free batch
size, which a ``.ort`` file cannot be given afterwards; hence the options here. On x86 it gives the right outputs, and its s8
kernels are many times slower than u8 ones: its latency is to be measured on Arm only.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from deploy.engines.base import BuildPlan, Engine, Session
from deploy.engines.onnxruntime import ONNXRuntimeSession, open_session, save_optimized
from profiles.device import DeviceProfile

MODEL = "model.ort"
FOR_ARM = {
    "session.save_model_format": "ORT",
    "session.qdqisint8allowed": "1",
    "disabled_optimizers": "NchwcTransformer MatMulAddFusion",
}


@final
class ORTMobile(Engine):
    """``.ort`` files for ONNX Runtime on Android and iOS, opened here by the full runtime.

    Beside the file lies ``required_operators.config``, what a minimal build of the runtime needs to hold.
    """

    name = "ort-mobile"
    package = "onnxruntime"
    precisions = ("fp32", "int8")

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options=FOR_ARM,
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        from onnxruntime.tools.ort_format_model import create_config_from_models

        save_optimized(model, plan, folder / MODEL)
        create_config_from_models([folder / MODEL], folder / "required_operators.config", False)

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return ONNXRuntimeSession(open_session(folder / MODEL, plan))
