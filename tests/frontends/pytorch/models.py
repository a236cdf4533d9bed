"""Small PyTorch networks, one for each way of building that people use. Each entry: module, example inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Made = tuple[nn.Module, tuple[Any, ...]]
MODELS: dict[str, Callable[[], Made]] = {}


def model(make: Callable[[], Made]) -> Callable[[], Made]:
    """Register a function that makes a network; weights come from a fixed seed, and none is trivial."""

    def seeded() -> Made:
        torch.manual_seed(0)
        module, inputs = make()
        with torch.no_grad():
            for name, value in [*module.named_parameters(), *module.named_buffers()]:
                if "running_var" in name:
                    value.uniform_(0.5, 1.5)
                elif value.is_floating_point() and (value.ndim == 1 or "running" in name):
                    value.add_(0.2 * torch.randn_like(value))
        return module, inputs

    MODELS[make.__name__] = seeded
    return seeded


def image(size: int = 16, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def conv(
    cin: int, cout: int, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(cout), nn.ReLU())


class Head(nn.Sequential):
    def __init__(self, width: int, classes: int = 5):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


@model
def vgg() -> Made:
    body = [conv(3, 8), nn.MaxPool2d(2), conv(8, 16), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(
        *body, nn.Linear(256, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5)
    ), (image(),)


@model
def resnet() -> Made:
    block = Residual(
        nn.Sequential(conv(8, 8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
    )
    down = Residual(
        nn.Sequential(conv(8, 16, stride=2), nn.Conv2d(16, 16, 3, padding=1)),
        nn.Conv2d(8, 16, 1, 2),
    )
    return nn.Sequential(conv(3, 8), block, down, Head(16)), (image(),)


@model
def bottleneck() -> Made:
    block = Residual(
        nn.Sequential(conv(16, 8, 1), conv(8, 8), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))
    )
    return nn.Sequential(conv(3, 16), block, Head(16)), (image(),)


@model
def mobilenet() -> Made:
    inverted = Residual(
        nn.Sequential(conv(8, 24, 1), conv(24, 24, groups=24), nn.Conv2d(24, 8, 1))
    )
    return nn.Sequential(
        conv(3, 8), inverted, nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Hardswish(), Head(16)
    ), (image(),)


@model
def resnext() -> Made:
    block = Residual(
        nn.Sequential(conv(16, 16, 1), conv(16, 16, groups=4), nn.Conv2d(16, 16, 1))
    )
    return nn.Sequential(conv(3, 16), block, Head(16)), (image(),)


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.branch = nn.Sequential(conv(8, 8, 1), conv(8, 8, groups=8), conv(8, 8, 1))
        self.head = Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.stem(x).chunk(2, dim=1)
        x = torch.cat([first, self.branch(second)], dim=1)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


@model
def shufflenet() -> Made:
    return Shuffle(), (image(),)


class Dense(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


@model
def densenet() -> Made:
    body = [
        nn.Conv2d(3, 8, 3, padding=1),
        Dense(8),
        Dense(16),
        nn.BatchNorm2d(24),
        nn.AvgPool2d(2),
    ]
    return nn.Sequential(*body, nn.Conv2d(24, 12, 1), nn.ReLU(), Head(12)), (image(),)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 8), conv(8, 16)
        self.up, self.last, self.out = (
            nn.ConvTranspose2d(16, 8, 2, 2),
            conv(16, 8),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down(x)
        second = self.up(self.deep(functional.max_pool2d(first, 2)))
        return self.out(self.last(torch.cat([first, second], 1)))


@model
def unet() -> Made:
    return UNet(), (image(),)


class Squeeze(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(scale))


@model
def squeeze_excite() -> Made:
    return nn.Sequential(conv(3, 16), Squeeze(16), nn.SiLU(), conv(16, 8), Head(8)), (
        image(),
    )


class Patches(nn.Module):
    """Image to tokens, some blocks, mean of tokens."""

    def __init__(self, *blocks: nn.Module, width: int = 16):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.blocks, self.norm, self.head = (
            nn.Sequential(*blocks),
            nn.LayerNorm(width),
            nn.Linear(width, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Mlp(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.norm, self.fc1, self.fc2 = (
            nn.LayerNorm(width),
            nn.Linear(width, 24),
            nn.Linear(24, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(functional.gelu(self.fc1(self.norm(x))))


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = (
            nn.LayerNorm(16),
            nn.MultiheadAttention(16, 4, batch_first=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


@model
def vit_multihead() -> Made:
    return Patches(Torch(), Mlp(), Torch(), Mlp()), (image(),)


class Packed(nn.Module):
    def __init__(self, width: int = 16, heads: int = 4):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.norm, self.qkv, self.proj = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(n, t, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj(
            y.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim)
        )


@model
def vit_packed() -> Made:
    return Patches(Packed(), Mlp(), Packed(), Mlp()), (image(),)


class Window(nn.Module):
    """Attention inside windows of four by four, shifted by two."""

    def __init__(self, width: int = 16, heads: int = 2, shift: int = 0):
        super().__init__()
        self.num_heads, self.shift, self.scale = heads, shift, (width // heads) ** -0.5
        self.norm, self.qkv, self.proj = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.bias = nn.Parameter(torch.randn(1, 1, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, _ = x.shape
        y = (
            torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
            if self.shift
            else self.norm(x)
        )
        y = y.view(n, h // 4, 4, w // 4, 4, -1).transpose(2, 3).flatten(1, 2).flatten(2, 3)
        q, k, v = (
            self.qkv(y).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        )
        y = ((q * self.scale) @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.proj(y.transpose(2, 3).flatten(3))
        y = y.view(n, h // 4, w // 4, 4, 4, -1).transpose(2, 3).reshape(n, h, w, -1)
        return x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, 2)
        self.blocks = nn.Sequential(Window(), Mlp(), Window(shift=2), Mlp())
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


@model
def swin() -> Made:
    return Swin(), (image(),)


@model
def group_norm() -> Made:
    body = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.GroupNorm(1, 8),
    ]
    return nn.Sequential(*body, Head(8)), (image(),)


class Recurrent(nn.Module):
    def __init__(self, core: nn.RNNBase, width: int):
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(20, 6), core, nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.core(self.embed(x))[0].mean(1))


def tokens() -> torch.Tensor:
    return torch.randint(0, 20, (2, 7))


@model
def lstm() -> Made:
    return Recurrent(nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), 16), (
        tokens(),
    )


@model
def gru() -> Made:
    return Recurrent(nn.GRU(6, 8, batch_first=True), 8), (tokens(),)


@model
def rnn() -> Made:
    return Recurrent(nn.RNN(6, 8, batch_first=True), 8), (tokens(),)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = (
            nn.LayerNorm(16),
            nn.Linear(17, 12),
            nn.Linear(12, 17),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.two(
            functional.gelu(self.one(self.norm(x).transpose(1, 2)))
        ).transpose(1, 2)


@model
def mixer() -> Made:
    return Patches(Mixer(), Mlp(), Mixer(), Mlp()), (image(),)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(12, 12, 7, padding=3, groups=12), nn.LayerNorm(12)
        self.one, self.two, self.gamma = (
            nn.Linear(12, 24),
            nn.Linear(24, 12),
            nn.Parameter(torch.ones(12)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.two(functional.gelu(self.one(y)))).permute(0, 3, 1, 2)


@model
def convnext() -> Made:
    return nn.Sequential(nn.Conv2d(3, 12, 2, 2), ConvNeXt(), ConvNeXt(), Head(12)), (
        image(),
    )


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.pool = (
            conv(8, 6, 1),
            nn.Sequential(conv(8, 4, 1), conv(4, 6)),
            conv(8, 4, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self.one(x), self.three(x), self.pool(functional.avg_pool2d(x, 3, 1, 1))], 1
        )


@model
def inception() -> Made:
    return nn.Sequential(conv(3, 8), Branches(), conv(16, 8), Head(8)), (image(),)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            16, 4, 24, dropout=0.0, batch_first=True, norm_first=True
        )
        self.embed = nn.Linear(6, 16)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(x))).mean(1)


@model
def encoder() -> Made:
    return Encoder(), (torch.randn(2, 5, 6),)


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(4, 12)
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=12)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = self.a(x).transpose(0, 1), self.b(y).transpose(0, 1)
        return self.head((x + self.attention(x, y, y)[0]).transpose(0, 1))


@model
def cross_attention() -> Made:
    return Cross(), (torch.randn(2, 5, 6), torch.randn(2, 3, 4))


@model
def temporal() -> Made:
    body = [
        nn.Conv1d(4, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.PReLU(8),
        nn.Conv1d(8, 8, 3, dilation=2, padding=2),
    ]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)), (
        torch.randn(2, 4, 12),
    )


@model
def volume() -> Made:
    body = [
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 6, 3, 2),
        nn.Flatten(),
    ]
    return nn.Sequential(*body, nn.Linear(162, 3)), (torch.randn(2, 1, 8, 8, 8),)


@model
def generator() -> Made:
    up = nn.Upsample(scale_factor=2)
    body = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.LeakyReLU(0.2),
        up,
    ]
    return nn.Sequential(
        *body, nn.Conv2d(8, 8, 3, padding=1), nn.ELU(), nn.Conv2d(8, 3, 1), nn.Tanh()
    ), (image(8),)


@model
def super_resolution() -> Made:
    body = [
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU(),
    ]
    return nn.Sequential(*body, nn.Conv2d(6, 3, 3, padding=1)), (image(8),)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.down = (
            nn.LayerNorm(16),
            nn.Linear(16, 48, bias=False),
            nn.Linear(24, 16, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.gate(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * value)


@model
def gated() -> Made:
    return Patches(Packed(), Gated(), Gated()), (image(),)


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 16, stride=2)
        self.left, self.right = nn.Conv2d(8, 12, 1), nn.Conv2d(16, 12, 1)
        self.smooth, self.boxes, self.scores = (
            conv(12, 12),
            nn.Conv2d(12, 4, 1),
            nn.Conv2d(12, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        first = self.first(x)
        top = self.right(self.second(first))
        low = self.smooth(
            self.left(first) + functional.interpolate(top, scale_factor=2.0, mode="nearest")
        )
        return {"boxes": self.boxes(low), "scores": self.scores(low)}


@model
def pyramid() -> Made:
    return Pyramid(), (image(),)


class Tied(nn.Module):
    """A language model whose embedding is its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block, self.norm, self.head = (
            Mlp(),
            nn.LayerNorm(16),
            nn.Linear(16, 20, bias=False),
        )
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.block(self.embed(x))))


@model
def tied() -> Made:
    return Tied(), (tokens(),)


class Reshaped(nn.Module):
    """Sizes are read off tensors, channels split, joined and flattened by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(8, 6, 3),
            nn.Linear(24, 10),
        )
        self.four = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        n, c, h, w = x.shape
        x = x.view(n, c // 2, 2, h, w).amax(2)
        x = functional.max_pool2d(torch.relu(self.two(x)), 6)
        x = torch.stack([x.flatten(2), -x.flatten(2)], -1).sum(-1) + x.reshape(
            x.shape[0], -1, 4
        )
        return self.four(
            torch.tanh(self.three(x.reshape(x.size(0), -1))).unsqueeze(1)
        ).squeeze(1)


@model
def reshaped() -> Made:
    return Reshaped(), (image(),)
