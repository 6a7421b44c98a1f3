"""The space of networks: L layers, with one of C candidate blocks in each.

    L  layers, counted from 0 at the input          C  candidate blocks of a layer
    An `Architecture` is one block name a layer; a partial model is its first l names.

Block names: `mb_k{3,5,7}_e{1..6}[_se]` is MobileNetV2's inverted bottleneck (kernel, expansion, squeeze-excite),
`res_k3[_e{2..4}]` is the plain 3x3 residual block, with so many times as many channels between its convolutions,
`pool_k3[_e{2..4}]` two 3x3 convolutions with max pooling between them, only where the image is made smaller, `identity`
is no layer at all, only where the shape is kept.
"""

import re
from dataclasses import dataclass
from functools import cache

from components.data.store import Classes
from components.settings.require import require
from components.settings.space import Blocks, SearchSpace

Architecture = tuple[str, ...]

IDENTITY = "identity"
POOL = "pool"
"""Family of the blocks that make the image smaller by pooling."""


@dataclass(frozen=True)
class Block:
    """The properties in a block's name."""

    family: str
    kernel: int = 3
    expansion: int = 1
    squeeze: bool = False


@dataclass(frozen=True)
class Layer:
    """Shapes of a layer, for all its candidates: [inputs, size, size] -> [outputs, size / stride, size / stride]."""

    inputs: int
    outputs: int
    stride: int
    size: int

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs

    def __str__(self) -> str:
        return f"{self.inputs}x{self.size}x{self.size}->{self.outputs}/{self.stride}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Input, stem, layers and candidate blocks of all networks."""

    size: int
    channels: int
    classes: int
    stem: int
    stem_stride: int
    layers: tuple[Layer, ...]
    blocks: Blocks
    barred: frozenset[tuple[int, str]] = frozenset()
    """Pairs (layer, block) that are excluded although the shapes would allow them."""

    @property
    def features(self) -> int:
        """Number of features that the classifier gets."""
        return self.layers[-1].outputs


@cache
def parse_block(name: str) -> Block:
    """Parse a block's name. Raises ValueError for a name of no known form."""
    bottleneck = re.fullmatch(r"mb_k([357])_e([1-6])(_se)?", name)
    if bottleneck:
        kernel, expansion, squeeze = bottleneck.groups()
        return Block("mb", int(kernel), int(expansion), squeeze is not None)
    convolutions = re.fullmatch(r"(res|pool)_k3(?:_e([2-4]))?", name)
    if convolutions:
        family, expansion = convolutions.groups()
        return Block(family, expansion=int(expansion or 1))
    if name != IDENTITY:
        raise ValueError(
            f"architecture.blocks names {name!r}; known are mb_k{{3,5,7}}_e{{1..6}}, the same with _se, "
            f"res_k3, res_k3_e{{2..4}}, pool_k3, pool_k3_e{{2..4}} and {IDENTITY}"
        )
    return Block(IDENTITY)


def space_of(settings: SearchSpace, classes: Classes) -> Space:
    """Return the settings' space for images of these classes. Raises ValueError for impossible settings."""
    for name in settings.blocks:
        parse_block(name)
    layers: list[Layer] = []
    inputs, size = settings.stem, after_stride(classes.size, settings.stem_stride)
    for outputs, count, stride in settings.stages:
        for index in range(count):
            layers.append(Layer(inputs, outputs, stride if index == 0 else 1, size))
            inputs, size = outputs, after_stride(size, layers[-1].stride)
    space = Space(
        size=classes.size,
        channels=classes.channels,
        classes=len(classes.names),
        stem=settings.stem,
        stem_stride=settings.stem_stride,
        layers=tuple(layers),
        blocks=settings.blocks,
    )
    for index, layer in enumerate(space.layers):
        require(
            candidates(space, index) != (),
            f"architecture.blocks names no block that layer {index} ({layer}) can be: {IDENTITY} needs a layer that "
            f"keeps its shape, {POOL}_k3 one of stride 2; name another block",
        )
    require(
        settings.blocks != (IDENTITY,),
        f"architecture.blocks holds only {IDENTITY}: no network would compute anything; name another block",
    )
    return space


def after_stride(size: int, stride: int) -> int:
    """Return the side of the output of a convolution that is padded by half its kernel."""
    return (size + stride - 1) // stride


def candidates(space: Space, layer: int) -> Blocks:
    """Return the blocks that a layer can have: identity only if it keeps its input's shape, pooling only if it has a
    stride."""
    legal = (name for name in space.blocks if is_legal(name, space.layers[layer]))
    return tuple(name for name in legal if (layer, name) not in space.barred)


def is_legal(name: str, layer: Layer) -> bool:
    """Whether the layer's shapes allow the block."""
    if name == IDENTITY:
        return layer.keeps_shape
    return layer.stride > 1 or parse_block(name).family != POOL


def default_architecture(space: Space) -> Architecture:
    """Return the network of the first candidate in every layer, which is trained if nothing is searched."""
    return tuple(candidates(space, layer)[0] for layer in range(len(space.layers)))


def canonical(space: Space, architecture: Architecture) -> Architecture:
    """Return the common form of all (partial) networks that are the same up to the place of identities.

    Within a run of layers of one shape, identities come last, because it does not matter which layer is skipped.
    """
    ordered: list[str] = []
    run: list[str] = []
    for index, name in enumerate(architecture):
        if index > 0 and space.layers[index] != space.layers[index - 1]:
            ordered += identities_last(run)
            run = []
        run.append(name)
    return tuple(ordered + identities_last(run))


def identities_last(run: list[str]) -> list[str]:
    return sorted(run, key=lambda name: name == IDENTITY)


def format_architecture(architecture: Architecture) -> str:
    """Write the architecture in one line, with `|` between layers; `parse_architecture` reads it."""
    return "|".join(architecture)


def blocks_of(text: str) -> Architecture:
    """Return the blocks that a text names, in any space."""
    return tuple(text.split("|"))


def parse_architecture(space: Space, text: str) -> Architecture:
    """Parse a text of `format_architecture`. Raises ValueError if it is no architecture of the space."""
    names = blocks_of(text)
    reason = misfit(space, names)
    require(not reason, f"the architecture {text!r} is none of this space: {reason}; name a legal block a layer")
    return names


def misfit(space: Space, names: Architecture) -> str:
    """Return the reason why these blocks are no network of the space; empty if they are one."""
    if len(names) != len(space.layers):
        return f"it has {len(names)} layers, the space {len(space.layers)}"
    for layer, name in enumerate(names):
        legal = candidates(space, layer)
        if name not in legal:
            return f"its layer {layer} is {name!r}, the space allows {', '.join(legal)} there"
    return ""
