"""The paper's networks for 32-pixel images, as `Classifier`s: ResNet-18 (He et al., CVPR 2016), WRN-28-10
(Zagoruyko & Komodakis, BMVC 2016), and one small enough to try the script with.

    b  images   c  channels   h w  pixels   d  features   k  classes
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's training images, pixels as 0..1."""


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Basic(nn.Module):
    """Two convolutions, each followed by its batch norm; the sum is activated."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, stride),
            activation(outputs),
            convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        changed = stride > 1 or inputs != outputs
        change = [convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)] if changed else []
        self.shortcut = nn.Sequential(*change)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return (self.body(x) + self.shortcut(x)).relu()


class PreActivated(nn.Module):
    """Batch norm and activation before each of two convolutions; a shortcut that changes shape sees the first one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = activation(inputs)
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, stride), activation(outputs), convolution(outputs, outputs)
        )
        self.change = convolution(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        active = self.first(x)
        return self.body(active) + (x if self.change is None else self.change(active))


class Residual(nn.Module):
    """A 3x3 stem, stages of blocks that halve the side between them, mean over the image, classifier without bias."""

    def __init__(
        self, block: Callable[[int, int, int], nn.Module], stem: nn.Module, widths: tuple[int, ...], depth: int,
        tail: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)
        first, *outputs = widths
        inputs = [first, *(width for width in outputs for _ in range(depth))]
        shapes = [
            (width, 1 if step or not stage else 2) for stage, width in enumerate(outputs) for step in range(depth)
        ]
        blocks = [block(before, width, stride) for before, (width, stride) in zip(inputs, shapes, strict=False)]
        self.body = nn.Sequential(stem, *blocks, tail)
        self.classifier = nn.Linear(widths[-1], 10, bias=False)

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.body((images.float() / 255 - self.mean) / self.std).mean(dim=(2, 3))

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classifier(self.features(images))


def resnet(widths: tuple[int, ...], depth: int) -> Residual:
    stem = nn.Sequential(convolution(3, widths[0]), activation(widths[0]))
    return Residual(Basic, stem, (widths[0], *widths), depth, nn.Identity())


def wide_resnet(depth: int, factor: int) -> Residual:
    """`depth` layers: 4 and 6 for each block of the three stages."""
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    return Residual(PreActivated, convolution(3, 16), widths, (depth - 4) // 6, activation(widths[-1]))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet((64, 128, 256, 512), 2),
    "wrn28_10": lambda: wide_resnet(28, 10),
    "tiny": lambda: resnet((4, 8), 1),
}


def build(name: str, seed: int, device: torch.device) -> nn.Module:
    """The network with fresh weights, the same ones for a seed on every device, in channels_last layout."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = NETWORKS[name]()
    return network.to(device, memory_format=torch.channels_last)
