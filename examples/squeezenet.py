"""SqueezeNet 1.0 for ImageNet-1k as one writes it, with data and weights of one's own; squeezenet.toml names all three.

The weights come as arrays: ``python squeezenet.py ARRAYS.npz WEIGHTS.safetensors`` turns them into a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.data.transforms import Normalise
from profiles.errors import UserError

SIZE = 224
CLASSES = 1000
CAFFE = Normalise(mean=(104.0, 117.0, 123.0), deviation=(1.0, 1.0, 1.0), order="bgr", scale=255.0)
INDEX = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""The ten classes of Imagenette among the thousand of ImageNet."""


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and 3x3 beside each other."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.0; names of the weights as torchvision has them."""

    def __init__(self) -> None:
        super().__init__()
        pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
        self.features = nn.Sequential(
            *[nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(), nn.MaxPool2d(**pool)],
            *[Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), nn.MaxPool2d(**pool)],
            *[Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), nn.MaxPool2d(**pool)],
            Fire(512, 64, 256),
        )
        # the padding is the published network's, of Caffe; torchvision has none
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, CLASSES, 1, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


def squeezenet() -> nn.Module:
    return SqueezeNet()


def imagenette(*, path: str, per_class: int = 40) -> Splits:
    """Imagenette at 224x224: ``heldout500`` is the test; of each class of ``train`` ``per_class`` and half as many more.

    The checkpoint has seen those training images: what it reaches on validation says little, and no stage is chosen here.
    """
    root = Path(path)
    if not (root / "heldout500").is_dir():
        raise UserError(f"data: {root} has no folder heldout500; give the folder that has it and train")
    train = _read(root / "train", slice(0, per_class))
    return Splits(
        train=train,
        calibration=train,
        validation=_read(root / "train", slice(per_class, per_class + per_class // 2)),
        test=_read(root / "heldout500", slice(None)),
        classes=tuple(str(number) for number in range(CLASSES)),
        preprocessing={"size": [SIZE, SIZE], **CAFFE.as_json()},
    )


def _read(folder: Path, which: slice) -> ArraySamples:
    files = {name: sorted((folder / name).iterdir())[which] for name in INDEX}
    pictures = [np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for each in files.values() for file in each]
    labels = [INDEX[name] for name, each in files.items() for _ in each]
    return ArraySamples(np.stack(pictures), np.array(labels), normalise=CAFFE)


def convert(arrays: Path, weights: Path) -> None:
    """A checkpoint of the arrays in an .npz."""
    with np.load(arrays, allow_pickle=False) as stored:
        save_file({name: torch.from_numpy(stored[name]) for name in stored.files}, weights)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
