"""The stand-alone network of an architecture, made of the same operators as the supernet.

MBConv is from Sandler et al., MobileNetV2, CVPR 2018 (with ReLU instead of ReLU6: the same cost, and one operator less
to export), squeeze-excite from Howard et al., MobileNetV3, ICCV 2019 (hard sigmoid), the residual block from He et al.,
CVPR 2016, convolutions with max pooling between them from Jordan's airbench for CIFAR-10, 2024 (there without an
expansion).

    b  images   c  channels   h, w  sides   d  features   k  classes
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.architecture.space import (
    IDENTITY,
    POOL,
    Architecture,
    Block,
    Layer,
    Space,
    parse_architecture,
    parse_block,
    space_of,
)
from components.data.store import Classes, Statistics
from components.settings.space import SearchSpace
from components.streams import torch_stream

SQUEEZE = 4
"""Factor by which a squeeze-excite gate reduces the block's input channels, as in MnasNet (MobileNetV3: the expanded
channels)."""


class Stem(nn.Module):
    """Normalises raw images and convolves them to the stem's width."""

    def __init__(self, space: Space, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.body = nn.Sequential(*convolution(space.channels, space.stem, 3, space.stem_stride), nn.ReLU(inplace=True))

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b stem h2 w2"]:
        scale = 1 / (255 * self.std)
        result: Tensor = self.body(images.to(scale.dtype) * scale - self.mean / self.std)
        return result


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, kxk depthwise, optional squeeze-excite, 1x1 projection, maybe a shortcut."""

    def __init__(self, block: Block, layer: Layer) -> None:
        super().__init__()
        hidden = layer.inputs * block.expansion
        expand = [*convolution(layer.inputs, hidden, 1), nn.ReLU(inplace=True)] if block.expansion > 1 else []
        gate = [SqueezeExcite(hidden, max(1, layer.inputs // SQUEEZE))] if block.squeeze else []
        self.body = nn.Sequential(
            *expand,
            *convolution(hidden, hidden, block.kernel, layer.stride, groups=hidden),
            nn.ReLU(inplace=True),
            *gate,
            *convolution(hidden, layer.outputs, 1),
        )
        self.keeps_shape = layer.keeps_shape

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        result: Tensor = self.body(x)
        return x + result if self.keeps_shape else result


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(mean))))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes. With an expansion there are
    more channels between them (Zagoruyko and Komodakis, BMVC 2016, widen both)."""

    def __init__(self, block: Block, layer: Layer) -> None:
        super().__init__()
        hidden = layer.outputs * block.expansion
        self.body = nn.Sequential(
            *convolution(layer.inputs, hidden, block.kernel, layer.stride),
            nn.ReLU(inplace=True),
            *convolution(hidden, layer.outputs, block.kernel),
        )
        change = [] if layer.keeps_shape else convolution(layer.inputs, layer.outputs, 1, layer.stride)
        self.shortcut = nn.Sequential(*change)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return F.relu(self.body(x) + self.shortcut(x))


class Pooled(nn.Module):
    """A 3x3 convolution at the full size of the image, max pooling, and another 3x3 convolution. With an expansion
    there are more channels between them."""

    def __init__(self, block: Block, layer: Layer) -> None:
        super().__init__()
        hidden = layer.outputs * block.expansion
        self.body = nn.Sequential(
            *convolution(layer.inputs, hidden, block.kernel),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(layer.stride, ceil_mode=True),
            *convolution(hidden, layer.outputs, block.kernel),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        result: Tensor = self.body(x)
        return result


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a padded convolution and its batch norm."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def build_identity(block: Block, layer: Layer) -> nn.Module:
    assert layer.keeps_shape, f"{block} cannot map {layer}"
    return nn.Identity()


FAMILIES: dict[str, Callable[[Block, Layer], nn.Module]] = {
    "mb": MBConv,
    "res": Residual,
    POOL: Pooled,
    IDENTITY: build_identity,
}
"""The module of each family of block names."""


def build_block(name: str, layer: Layer) -> nn.Module:
    """Build the block of that name for the layer. Raises ValueError for an unknown name."""
    block = parse_block(name)
    return FAMILIES[block.family](block, layer)


class Network(nn.Module):
    """Stem, one block for each layer, mean over the image, classifier without bias (losses need its weight alone)."""

    def __init__(
        self, space: Space, architecture: Architecture, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        assert len(architecture) == len(space.layers)
        self.stem = Stem(space, mean, std)
        self.layers = nn.Sequential(
            *(build_block(name, layer) for name, layer in zip(architecture, space.layers, strict=True))
        )
        self.classifier = nn.Linear(space.features, space.classes, bias=False)

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the classifier's input."""
        return pool(self.layers(self.stem(images)))

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of raw images."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def pool(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d"]:
    """Return the mean over the image."""
    return x.mean(dim=(2, 3))


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator, from which modules draw their first weights, and restore it after the block."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_stream(seed, purpose).initial_seed())
        yield


def build_network(
    space: Space, architecture: Architecture, mean: tuple[float, ...], std: tuple[float, ...], seed: int = 0
) -> Network:
    """Build the network with fresh weights, in channels_last layout; the same seed gives the same weights.

    `mean` and `std` of each channel are for pixels in 0..1.
    """
    with seeded(seed, "network weights"):
        network = Network(space, architecture, mean, std)
    return network.to(memory_format=torch.channels_last)


def make_network(
    settings: SearchSpace, classes: Classes, statistics: Statistics, architecture: str, seed: int
) -> Network:
    """Build the network for a stage; every stage that trains, scores, exports or compares one calls this function.

    `architecture` is text of `format_architecture`. Raises ValueError if it is not in the settings' space.
    """
    space = space_of(settings, classes)
    return build_network(space, parse_architecture(space, architecture), statistics.mean, statistics.std, seed)
