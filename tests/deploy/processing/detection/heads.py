"""Small detectors with the heads of published ones, decode and all: random weights, 64 x 64 pixels."""

import torch
from torch import nn

from deploy.processing.detection.arrays import map_places

STRIDES, CLASSES, SIZE = (8, 16, 32), 3, 64


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


class Distances(nn.Module):
    """The head of YOLOv8: distributions of distances and class logits from branches of their own at three strides.

    Args:
        decoded: whether it gives (samples, 4 + classes, places), centre and size in pixels; else boxes and scores raw.
        bins: 1 for distances themselves, as YOLO26.
    """

    def __init__(self, decoded=True, bins=16, classes=CLASSES):
        super().__init__()
        self.decoded, self.bins = decoded, bins
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2), conv(16, 16, 2))
        self.down = nn.ModuleList([conv(16, 16, 2), conv(16, 16, 2)])
        self.boxes = nn.ModuleList(nn.Sequential(conv(16, 16), nn.Conv2d(16, 4 * bins, 1)) for _ in STRIDES)
        self.scores = nn.ModuleList(nn.Sequential(conv(16, 16), nn.Conv2d(16, classes, 1)) for _ in STRIDES)
        if bins > 1:
            self.mean = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
            self.mean.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)
        places = torch.from_numpy(map_places([(SIZE // s, SIZE // s) for s in STRIDES], STRIDES)).T
        self.register_buffer("middles", places[:2] / places[2:])
        self.register_buffer("strides", places[2:])

    def forward(self, x):
        maps = [self.stem(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        boxes = torch.cat([head(m).flatten(2) for head, m in zip(self.boxes, maps, strict=True)], 2)
        scores = torch.cat([head(m).flatten(2) for head, m in zip(self.scores, maps, strict=True)], 2)
        if not self.decoded:
            return boxes, scores
        if self.bins > 1:
            split = boxes.view(x.shape[0], 4, self.bins, -1).transpose(2, 1).softmax(1)
            boxes = self.mean(split).view(x.shape[0], 4, -1)
        one, other = self.middles - boxes[:, :2], self.middles + boxes[:, 2:]
        box = torch.cat([(one + other) / 2, other - one], 1) * self.strides
        return torch.cat([box, scores.sigmoid()], 1)


class Anchored(nn.Module):
    """The head of YOLOv5, with anchors as given, decoded to (samples, places, 5 + classes)."""

    def __init__(self, anchors):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2), conv(16, 16, 2))
        self.down = nn.ModuleList([conv(16, 16, 2), conv(16, 16, 2)])
        self.heads = nn.ModuleList(nn.Conv2d(16, 3 * (5 + CLASSES), 1) for _ in STRIDES)
        self.anchors = anchors

    def forward(self, x):
        maps, rows = [self.stem(x)], []
        for down in self.down:
            maps.append(down(maps[-1]))
        for head, m, stride, anchors in zip(self.heads, maps, STRIDES, self.anchors, strict=True):
            side = SIZE // stride
            said = head(m).view(-1, 3, 5 + CLASSES, side, side).permute(0, 1, 3, 4, 2).sigmoid()
            y, x_ = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            middle = (said[..., :2] * 2 - 0.5 + torch.stack([x_, y], -1)) * stride
            size = (said[..., 2:4] * 2) ** 2 * torch.tensor(anchors, dtype=torch.float).view(1, 3, 1, 1, 2)
            rows.append(torch.cat([middle, size, said[..., 4:]], -1).reshape(said.shape[0], -1, 5 + CLASSES))
        return torch.cat(rows, 1)


class Queries(nn.Module):
    """The head of RT-DETR: boxes of queries are refined from where they start; logits and boxes as shares."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2), conv(16, 16, 2))
        self.score, self.box = nn.Linear(16, CLASSES), nn.Linear(16, 4)
        self.register_buffer("start", torch.rand(64, 4))

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.score(tokens), (self.box(tokens) + torch.logit(self.start, 1e-3)).sigmoid()


def made(kind, *arguments, **options):
    """A detector whose scores and boxes vary from place to place: random weights, large enough that no layer fades."""
    torch.manual_seed(0)
    module = kind(*arguments, **options)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear) and (part.bias is not None or part.kernel_size != (1, 1)):
                part.weight.mul_(2.5)
    return module.eval()
