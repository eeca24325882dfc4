"""Small models as people write them: what every stage must survive. Inputs are (samples, 3, 16, 16), outputs 4 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as people write it


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Functional(nn.Module):
    """Functional relu and pooling, sizes read from the tensor, ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.conv2(x))
        x = F.avg_pool2d(x, x.size()[3])
        return self.fc(x.view(x.size(0), -1))


class LambdaLayer(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LambdaShortcut(nn.Module):
    """A residual block whose shortcut slices and pads, written as a lambda (pickling fails on it)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 32, stride=2), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), "constant", 0))
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.body(x) + self.shortcut(x))
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions (ResNeXt, MobileNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 16), conv(16, 32, groups=4), conv(32, 32, groups=32), conv(32, 16, 1))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class SqueezeExcite(nn.Module):
    """SE gates, h-swish and SiLU (MobileNetV3, EfficientNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn = nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        self.depth = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.down, self.up = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.project, self.fc = nn.Conv2d(24, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.bn(self.expand(x)))
        x = F.silu(self.depth(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(self.project(x * gate).mean((2, 3)))


class C2f(nn.Module):
    """Split, run, concatenate everything (YOLOv8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.fc = conv(3, 32, 1), conv(64, 32, 1), nn.Linear(32, 4)
        self.steps = nn.ModuleList([conv(16, 16), conv(16, 16)])

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(step(parts[-1]) for step in self.steps)
        return self.fc(self.last(torch.cat(parts, 1)).mean((2, 3)))


class Shuffle(nn.Module):
    """Half of the channels pass by, then all are shuffled, twice (ShuffleNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.branches = nn.ModuleList(nn.Sequential(conv(8, 8, 1), conv(8, 8, 3, groups=8), conv(8, 8, 1)) for _ in range(2))
        self.last = conv(16, 16, 1)
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            passed, taken = x.chunk(2, dim=1)
            x = torch.cat([passed, branch(taken)], 1)
            x = x.view(x.size(0), 2, 8, 8, 8).transpose(1, 2).reshape(x.size(0), 16, 8, 8)
        return self.linear(self.last(x).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8, 1), nn.Sequential(conv(3, 8, 1), conv(8, 16, 3)), conv(3, 8, 5)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(3, 8, 1))
        self.mix, self.fc = conv(40, 24, 3, 2), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x), self.c(x), self.pool(x)], dim=1)
        return self.fc(self.mix(x).flatten(2).mean(-1))


class Dense(nn.Module):
    """Each layer reads all that came before (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList([nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(16 + 8 * i) for i in range(3)])
        self.fc = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        return self.fc(torch.cat(features, 1).mean((2, 3)))


class ViTBlock(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(ViTBlock(width), ViTBlock(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class TorchAttention(nn.Module):
    """torch's own MultiheadAttention, whose projection is read, not called."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head((x + mixed).mean(1))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(x).permute(0, 2, 3, 1)
        y = self.gamma * self.fc2(F.gelu(self.fc1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 24, 4, 4), ConvNeXtBlock(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean([-2, -1]))


class Shared(nn.Module):
    """One block run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = conv(3, 16), conv(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.fc(x.mean((2, 3)))


class TupleOutput(nn.Module):
    """Logits and a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.fc = conv(3, 16), conv(16, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(self.stem(x))
        return self.fc(features.mean((2, 3))), features


class DictOutput(TupleOutput):
    """The same under names."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits, features = super().forward(x)
        return {"logits": logits, "features": features}


ZOO = {
    "functional": Functional,
    "lambda_shortcut": LambdaShortcut,
    "grouped": Grouped,
    "squeeze_excite": SqueezeExcite,
    "c2f": C2f,
    "shuffle": Shuffle,
    "inception": Inception,
    "dense": Dense,
    "vit": ViT,
    "torch_attention": TorchAttention,
    "convnext": ConvNeXt,
    "shared": Shared,
    "tuple_output": TupleOutput,
    "dict_output": DictOutput,
}


def build(name: str) -> nn.Module:
    """A model of the zoo; a recipe names it as ``tests.zoo:build``."""
    return ZOO[name]()
