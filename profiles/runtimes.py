"""What a runtime that was found on a device is given in its profile: Q/DQ recipe, and precisions that its processor has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from profiles.device import DeviceProfile, Runtime
from profiles.errors import UserError, unknown
from profiles.facts import Facts

ORDER = ("tensorrt", "openvino", "onnxruntime", "ncnn", "mnn", "litert", "executorch", "ort-mobile")
"""The order of runtimes where no race was run; files for phones are not for a board."""
RECIPES = {
    "tensorrt": (("tensorrt", ()),),
    "executorch": (("xnnpack", ()),),
    "ncnn": (("ncnn", ()),),
    "mnn": (("mnn", ()),),
    "litert": (("litert", ()),),
    "onnxruntime-tensorrt": (("tensorrt", ()),),
    "onnxruntime-xnnpack": (("xnnpack", ()),),
    "onnxruntime-qnn": (("qnn", ()),),
    "onnxruntime-coreml": (("arm-dotprod", ()),),
    "onnxruntime-nnapi": (("arm-dotprod", ()),),
    "onnxruntime-directml": (("x86-vnni", ()),),
    "openvino-gpu": (("x86-vnni", ()),),
    "openvino-npu": (("x86-vnni", ()),),
    "ort-mobile": (("arm-dotprod", ("asimddp",)),),
    "openvino": (
        ("x86-vnni", ("avx512_vnni", "avx_vnni")),
        ("x86-no-vnni", ("x86_64", "AMD64")),
        ("arm-dotprod", ("asimddp",)),
    ),
    "onnxruntime": (
        ("ort-x86-vnni", ("avx512_vnni", "avx_vnni")),
        ("ort-x86-no-vnni", ("x86_64", "AMD64")),
        ("arm-dotprod", ("asimddp",)),
    ),
}
RECIPES["onnxruntime-openvino"] = RECIPES["openvino"]
"""Q/DQ recipes of each engine, and the flags of which one is needed; the first that fits is taken."""
UNITS = {
    "tensorrt": "gpu",
    "onnxruntime-cuda": "gpu",
    "onnxruntime-tensorrt": "gpu",
    "onnxruntime-directml": "gpu",
    "openvino-gpu": "gpu",
    "openvino-npu": "npu",
    "onnxruntime-qnn": "npu",
    "onnxruntime-coreml": "npu",
    "onnxruntime-nnapi": "npu",
    "executorch-coreml": "npu",
    "executorch-vulkan": "gpu",
}
"""The part of a device that an engine runs on, where not its CPU."""
ARITHMETIC = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"asimdhp", "avx512_fp16"}}
"""Flags of which a CPU has one where it computes in a half precision."""


def runtime_on(engine: str, precisions: Sequence[str], device: Facts, before: Runtime | None = None) -> Runtime:
    """Return the runtime of an engine on a device.

    Args:
        precisions: what the engine has.
        before: its entry in the profile of a board of the same kind.

    Example:
        >>> from profiles.facts import Facts
        >>> pi = Facts(arch="aarch64", processor="", cores=4, memory_bytes=0, system="Linux", flags=frozenset({"asimddp"}))
        >>> runtime_on("onnxruntime", ("fp32", "int8"), pi).quantization
        'arm-dotprod'
    """
    recipes = RECIPES.get(engine, ())
    recipe = next((name for name, needs in recipes if not needs or device.flags.intersection(needs)), None)
    unit = before.unit if before else UNITS.get(engine, "cpu")
    lacking = {p for p, flags in ARITHMETIC.items() if unit == "cpu" and not device.flags & flags}
    had = before.precisions if before else precisions
    return Runtime(
        engine=engine,
        precisions=tuple(p for p in had if p not in lacking and (p != "int8" or recipe)),
        quantization=recipe,
        unit=unit,
        estimate=before.estimate if before else None,
        options=before.options if before else {},
    )


def with_named(
    profile: DeviceProfile, engines: Sequence[str], precisions: Mapping[str, Sequence[str]], device: Facts
) -> DeviceProfile:
    """Limit a profile to the runtimes in ``engines``, in their order; one that it lacks is added as it would be found.

    Args:
        precisions: of every engine that there is.

    Raises:
        UserError: there is no engine of a name, or it is named twice.
    """
    faults = [unknown("engine", name, precisions, "--engines") for name in engines if name not in precisions]
    faults += [f"--engines: {name} is named twice" for name in dict.fromkeys(engines) if engines.count(name) > 1]
    if not engines:
        faults.append("--engines: names are needed, such as onnxruntime,ncnn")
    if faults:
        raise UserError(*faults)
    had = {runtime.engine: runtime for runtime in profile.runtimes}
    return replace(profile, runtimes=tuple(had.get(e) or runtime_on(e, precisions[e], device) for e in engines))
