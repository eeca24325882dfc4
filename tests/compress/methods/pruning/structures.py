"""Small networks, each with one trait of real ones; inputs are (samples, 3, 16, 16), outputs 4 classes."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from tests.zoo import ViTBlock, conv


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


class SliceResidual(nn.Module):
    """Adds to the first channels alone, as ReXNet does; as many blocks as asked."""

    def __init__(self, blocks=3):
        super().__init__()
        widths = [16 + 8 * k for k in range(blocks + 1)]
        self.stem, self.head = conv(3, 16), head(widths[-1])
        self.layers = nn.ModuleList(conv(a, b, 1) for a, b in pairwise(widths))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            y = layer(x)
            x = torch.cat([y[:, : x.shape[1]] + x, y[:, x.shape[1] :]], 1)
        return self.head(x)


class Fused(nn.Module):
    """Attention whose sizes are attributes (timm)."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim, self.scale = heads, width // heads, width, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, _ = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        mixed = self.mix(q * self.scale @ k.transpose(-2, -1)) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.attn_dim))

    def mix(self, scores):
        return scores.softmax(-1)


class Windowed(Fused):
    """With a table of relative positions, one column a head (Swin)."""

    def __init__(self, width=32, heads=4, side=2):
        super().__init__(width, heads)
        self.area = side * side
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None] + side - 1
        self.register_buffer("index", apart[0] * (2 * side - 1) + apart[1], persistent=False)

    def mix(self, scores):
        bias = self.table[self.index.view(-1)].view(self.area, self.area, -1).permute(2, 0, 1)
        return (scores + bias).softmax(-1)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 16, 32))
        self.norm1, self.norm2, self.attention = nn.LayerNorm(32), nn.LayerNorm(32), Fused()
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        x = x + self.attention(self.norm1(x))
        return self.head((x + self.down(functional.gelu(self.up(self.norm2(x))))).mean(1))


class Window(nn.Module):
    """Rolled, cut in windows, attended within, merged, and patches merged (Swin)."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm, self.attention = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), Windowed()
        self.merged, self.reduce, self.head = nn.LayerNorm(128), nn.Linear(128, 48, bias=False), nn.Linear(48, 4)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        batch, high, wide, width = x.shape
        rolled = torch.roll(self.norm(x), (-1, -1), (1, 2)).view(batch, high // 2, 2, wide // 2, 2, width)
        windows = self.attention(rolled.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, width))
        back = windows.view(batch, high // 2, wide // 2, 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(back.reshape(batch, high, wide, width), (1, 1), (1, 2))
        x = x.reshape(batch, high // 2, 2, wide // 2, 2, width).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.head(self.reduce(self.merged(x)).mean((1, 2)))


class Branches(nn.Module):
    """A 3x3, a 1x1 and a batch norm alone are added (RepVGG)."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = conv(3, 32), head(32)
        self.wide, self.point = (nn.Conv2d(32, 32, k, padding=k // 2, bias=False) for k in (3, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return self.head(
            functional.relu(sum(n(y) for n, y in zip(self.norms, (self.wide(x), self.point(x), x), strict=True)))
        )


class Ghost(nn.Module):
    """Cheap features beside the others, more than are needed, cut off by an attribute (GhostNet)."""

    def __init__(self):
        super().__init__()
        self.given, self.first, self.cheap = 24, conv(3, 16), conv(16, 16, groups=16)
        self.last, self.head = conv(24, 16, 1), head(16)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.last(torch.cat([x, self.cheap(x)], 1)[:, : self.given]))


class Upsampled(nn.Module):
    """Down and up again: transposed convolution, pixel shuffle, what came before beside it (U-Net)."""

    def __init__(self):
        super().__init__()
        self.high, self.low, self.wide = conv(3, 16), conv(16, 32, stride=2), nn.Conv2d(32, 64, 1)
        self.up, self.mix, self.head = nn.ConvTranspose2d(32, 24, 2, 2), conv(56, 16), head(16)

    def forward(self, x):
        high = self.high(x)
        low = self.low(high)
        return self.head(self.mix(torch.cat([high, self.up(low), functional.pixel_shuffle(self.wide(low), 2)], 1)))


class Flattened(nn.Module):
    """Every place of a map is an input of its own (VGG), behind a grouped convolution and an in-place sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(3, 32, stride=2), conv(32, 32, groups=2, stride=2)
        self.fc, self.last = nn.Linear(32 * 16, 40), nn.Linear(40, 4)

    def forward(self, x):
        x = self.second(self.first(x))
        x += 1
        return self.last(functional.relu(self.fc(x.flatten(1))))


class Unknown(nn.Module):
    """Sorts its channels: no rule can say which goes where."""

    def __init__(self):
        super().__init__()
        self.free, self.sorted, self.last = conv(3, 16), conv(16, 16), head(16)

    def forward(self, x):
        return self.last(self.sorted(self.free(x)).sort(1).values.cumsum(1))


class UnevenHeads(nn.Module):
    """A stream that is as wide as its heads, of ten channels each, by the code alone: x.reshape(samples, tokens, width)."""

    def __init__(self):
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 40, 4, 4), ViTBlock(40, 4), nn.Linear(40, 4)

    def forward(self, x):
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class CosineHeads(nn.Module):
    """Attention by cosines, of a scale for each head, whose keys' bias is zeroed in the forward pass (Swin V2)."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.qkv, self.proj, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 4)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 1)

    def forward(self, x):
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        samples, tokens, width = x.shape
        bias = self.qkv.bias.clone()
        third = bias.numel() // 3
        bias[third : 2 * third].zero_()
        qkv = functional.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(samples, tokens, 3, 4 * width // 32, 8).permute(2, 0, 3, 1, 4)
        scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        mixed = (scores * self.scale.clamp(max=2.0)).softmax(-1) @ v
        return self.head((x + self.proj(mixed.transpose(1, 2).reshape(samples, tokens, width))).mean(1))


class Scalars(nn.Module):
    """Asks whether a mask hides nothing, and fills a number in: tensors without axes (BERT, RT-DETR)."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.head = conv(3, 32), conv(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        scale = x.new_zeros(())
        scale.copy_(x.new_tensor(2.0))
        x = self.first(x) * scale
        if not bool(torch.isfinite(x).all()):
            x = torch.nan_to_num(x)
        return self.head(self.last(x).mean((2, 3)))


class Padded(nn.Module):
    """Maps, channels last, that are padded to whole windows and cropped again (Swin V2)."""

    def __init__(self):
        super().__init__()
        self.patch, self.up, self.down, self.head = (
            nn.Conv2d(3, 32, 4, 4),
            nn.Linear(32, 64),
            nn.Linear(64, 32),
            nn.Linear(32, 4),
        )

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        wide = functional.pad(x, (0, 0, 0, 2, 0, 2))
        x = x + self.down(functional.relu(self.up(wide)))[:, :4, :4]
        return self.head(x.mean((1, 2)))


class TiedHeads(nn.Module):
    """Attention whose code takes the width of a head, and of what it gives, from the stream it reads (Swin V2)."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.scale = heads, nn.Parameter(torch.rand(heads, 1, 1) + 1)
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        samples, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(samples, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        mixed = (scores * self.scale).softmax(-1) @ v
        return x + self.proj(mixed.transpose(1, 2).reshape(samples, tokens, width))


class TiedBlocks(nn.Module):
    """Three such blocks on one stream."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 40, 4, 4), nn.Linear(40, 4)
        self.blocks = nn.Sequential(*[TiedHeads(40, 4) for _ in range(3)])

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))
