"""The parts of a network as modules of their own, so that they can be counted and timed."""

from collections.abc import Iterable

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.architecture.network import Stem, pool
from components.architecture.space import (
    Space,
)


class RawStem(nn.Module):
    """The stem as it ships: it takes raw NHWC images."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, images: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b stem h2 w2"]:
        result: Tensor = self.stem(images.permute(0, 3, 1, 2))
        return result


class Head(nn.Module):
    """Pooling, classifier and probabilities, as they ship."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.classifier = nn.Linear(space.features, space.classes, bias=False)

    def forward(self, x: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        logits: Tensor = self.classifier(pool(x))
        return logits, logits.softmax(dim=1)


class Empty(nn.Module):
    """Computes next to nothing, so that its time is the session's overhead."""

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return x + 1


class SideBySide(nn.Module):
    """Runs many modules, each from its own input to its own outputs, so that one export serves all of them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for part, x in zip(self.parts, inputs, strict=True):
            y = part(x)
            outputs += y if isinstance(y, tuple) else (y,)
        return tuple(outputs)
