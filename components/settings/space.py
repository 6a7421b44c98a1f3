"""Settings of the space of networks: the part of `architecture` that every stage reads which builds a network."""

from dataclasses import dataclass

from components.settings.require import require

Blocks = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Settings of stem, stages and candidate blocks (components/architecture/space.py)."""

    stem: int
    """Number of channels after the first 3x3 convolution."""
    stem_stride: int
    """Stride of the first convolution: 1 for images of 8 to 32 pixels, 2 for larger ones."""
    stages: tuple[tuple[int, int, int], ...]
    """(channels, layers, stride of the first layer) of each stage, from input to output."""
    blocks: Blocks
    """Candidate blocks of every layer, the default network's first: mb_k{3,5,7}_e{1..6}[_se], res_k3[_e{2..4}],
    pool_k3[_e{2..4}] (in layers with stride 2), identity (in layers that keep their shape)."""

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
