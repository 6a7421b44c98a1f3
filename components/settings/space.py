"""The space of networks: what every stage that builds one reads of `architecture`."""

from dataclasses import dataclass

from components.settings.require import require

Blocks = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Stem, stages and candidate blocks (components/architecture/space.py)."""

    stem: int
    """Channels after the first 3x3 convolution."""
    stem_stride: int
    """Stride of the first convolution: 1 for 8-32 pixels, 2 for larger."""
    stages: tuple[tuple[int, int, int], ...]
    """(channels, layers, stride of the first layer) from input to output."""
    blocks: Blocks
    """Candidates of every layer, the default network's first: mb_k{3,5,7}_e{1..6}[_se], res_k3, identity."""

    def __post_init__(self) -> None:
        require(self.stem >= 1, f"architecture.stem is {self.stem}; use at least 1")
        require(self.stem_stride in (1, 2), f"architecture.stem_stride is {self.stem_stride}; use 1 or 2")
        require(len(self.stages) > 0, "architecture.stages is empty; give at least one [channels, layers, stride]")
        for channels, layers, stride in self.stages:
            require(
                channels >= 1 and layers >= 1 and stride in (1, 2),
                f"architecture.stages has [{channels}, {layers}, {stride}]; "
                "use [channels >= 1, layers >= 1, stride 1 or 2]",
            )
        require(len(self.blocks) > 0, "architecture.blocks is empty; give at least one block")
        require(len(set(self.blocks)) == len(self.blocks), "architecture.blocks names a block twice; name each once")
