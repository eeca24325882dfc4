"""How much of real networks ``ratio = 0.25`` takes away, beside Torch-Pruning, and in what time.

``EDGE_ZOO`` names the Python of an environment with torch, torchvision, timm, ultralytics and torch-pruning. Weights are
random and nothing is trained: what is compared is which channels can go. Where Torch-Pruning fails, 20 % are asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.bench import shares_of
from tests.bench.figure import Figure, Table
from tests.bench.running import ROOT

MISSING = "left out: EDGE_ZOO names no Python of an environment with torchvision and timm"
NETWORKS = {
    "MobileNetV2": "torchvision:mobilenet_v2",
    "MobileNetV3-small": "torchvision:mobilenet_v3_small",
    "MobileNetV3-large": "torchvision:mobilenet_v3_large",
    "MobileNetV4-small": "timm:mobilenetv4_conv_small",
    "EfficientNet-B0": "torchvision:efficientnet_b0",
    "ResNet-50": "torchvision:resnet50",
    "SqueezeNet 1.1": "torchvision:squeezenet1_1",
    "DenseNet-121": "torchvision:densenet121",
    "RepVGG-A0": "timm:repvgg_a0",
    "ConvNeXt-atto": "timm:convnext_atto",
    "ShuffleNetV2": "torchvision:shufflenet_v2_x1_0",
    "ReXNet-1.0": "timm:rexnet_100",
    "DeiT-tiny": "timm:deit_tiny_patch16_224",
    "Swin-tiny": "timm:swin_tiny_patch4_window7_224",
    "MobileViT-xxs": "timm:mobilevit_xxs:256",
    "EdgeNeXt-xxs": "timm:edgenext_xx_small:256",
    "LeViT-128s": "timm:levit_128s",
    "YOLOv8n": "ultralytics:yolov8n:320",
    "YOLO11n": "ultralytics:yolo11n:320",
}
OF_THEIRS, ALONE, SLOWER, SECONDS = 0.95, 0.20, 3.0, 90
"""Asked: of Torch-Pruning's share, without it, of its time; and how long one of the two may take."""


def run() -> Table:
    if "EDGE_ZOO" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    figures, remarks = [], []
    names = {network: name for name, network in NETWORKS.items()}
    for found in _measured():
        name, ours, theirs = names[found["network"]], found["ours"], found["theirs"]
        figures += _figures(name, ours, theirs)
        if "share" not in theirs:
            remarks.append(f"{name}: Torch-Pruning fails: {theirs['error']}")
        if ours.get("whole"):
            remarks.append(f"{name}: {ours['whole']} groups are left whole")
    return Table(figures=figures, remarks=remarks)


def _figures(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Figure]:
    if "share" not in ours:
        return [Figure(what=name, asked="cut", measured=ours["error"], met=False)]
    beside = "share" in theirs
    least = OF_THEIRS * theirs["share"] if beside else ALONE
    asked = f">= {OF_THEIRS:g} of Torch-Pruning's {theirs['share']:.1%}" if beside else f">= {ALONE:.0%}"
    exact = "" if ours["equal"] and ours["faithful"] else "; replay or masking differs"
    found = [
        Figure(
            what=f"{name}: parameters gone",
            asked=asked,
            measured=f"{ours['share']:.1%}{exact}",
            met=ours["share"] >= least and not exact,
        )
    ]
    if beside:
        times = ours["seconds"] / theirs["seconds"]
        told = f"{times:.1f}x ({ours['seconds']:.1f} s)"
        found.append(Figure(what="its processor time", asked=f"<= {SLOWER:g}x", measured=told, met=times <= SLOWER))
    return found


def _measured() -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [os.environ["EDGE_ZOO"], "-m", shares_of.__name__, str(SECONDS), *NETWORKS.values()]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
