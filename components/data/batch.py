"""The check that there are enough images for a batch."""

from components.data.store import TRAIN
from components.settings.require import require


def require_batch(counts: dict[str, dict[str, int]], batch_size: int) -> None:
    """Raise ValueError unless the train split fills one batch."""
    images = sum(counts[TRAIN].values())
    require(
        batch_size <= images,
        f"train.recipe.batch_size is {batch_size}, but the train split has {images} images; use at most {images}",
    )
