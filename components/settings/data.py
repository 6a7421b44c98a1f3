"""Settings of the images' source and splits (section `data`)."""

from dataclasses import dataclass

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Data:
    """Settings of the source of labelled images and of their splits."""

    source: str
    """`digits`, `folder`, `parquet`, or `torchvision:NAME` (a data set's class name)."""
    path: str | None = None
    """The folder of images (`folder`), the file or folder of shards (`parquet`), or the data set's root
    (`torchvision:NAME`)."""
    size: int
    """Side, in pixels, of the square that every image is resized to."""
    val: float
    """Share of each class's images in val, which rewards are measured on."""
    test: float
    """Share of each class's images in test, which only `evaluate` reads; unused if the source has its own test."""
    max_pixels: int = 50_000_000
    """Number of pixels above which an image is refused by its header, before it is decoded."""

    def __post_init__(self) -> None:
        known = self.source in ("digits", "folder", "parquet") or self.source.startswith("torchvision:")
        require(known, f"data.source is {self.source!r}; use digits, folder, parquet or torchvision:NAME")
        needs_path = self.source in ("folder", "parquet")
        require(not needs_path or self.path is not None, f"data.source {self.source} needs data.path: set it")
        require(4 <= self.size <= 1024, f"data.size is {self.size}; use 4 to 1024 pixels")
        require(0 < self.val < 1, f"data.val is {self.val}; use a share between 0 and 1")
        require(0 < self.test < 1, f"data.test is {self.test}; use a share between 0 and 1")
        require(
            self.val + self.test < 1,
            f"data.val + data.test is {self.val + self.test:g}; it must be below 1, or nothing is left to train on",
        )
        require(self.max_pixels > 0, f"data.max_pixels is {self.max_pixels}; use a positive number of pixels")
