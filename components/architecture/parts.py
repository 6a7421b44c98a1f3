"""Names of the parts of a network, whose latencies add up to its own."""

from components.architecture.space import (
    IDENTITY,
    Architecture,
    Space,
    candidates,
)

STEM, HEAD, EMPTY = "stem", "head", "empty session"


def parts(layers: tuple[str, ...], architecture: Architecture) -> list[str]:
    """Return the names of the timed parts of a network; an identity is no part."""
    blocks = [part_name(block, shape) for block, shape in zip(architecture, layers, strict=True) if block != IDENTITY]
    return [STEM, *blocks, HEAD]


def part_name(block: str, shape: str) -> str:
    return f"{block} {shape}"


def full_architecture(space: Space) -> Architecture:
    """Return the reference network: in every layer the first block that computes something."""
    return repeat_block(space, IDENTITY)


def repeat_block(space: Space, block: str) -> Architecture:
    """Return the block in all layers; where it is the identity or not allowed, the first that computes something."""
    legal = [[name for name in candidates(space, layer) if name != IDENTITY] for layer in range(len(space.layers))]
    return tuple(block if block in names else names[0] for names in legal)
