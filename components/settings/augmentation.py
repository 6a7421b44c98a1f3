"""Settings of the augmentation search (section `augmentation`)."""

from dataclasses import dataclass

from components.settings.online import Online
from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Settings of the search for an augmentation policy (Lin et al., ICCV 2019); see
    components/augmentation/README.md."""

    pairs_per_trunk: int | None = 2
    """Number of pairs that a copy draws from for a whole trunk; null: a new pair for every image (the paper). The
    reward `alignment` does not use it."""
    cutout: bool = True
    """Whether Cutout is an element of the search space; it is never applied outside the policy."""
    identity_share: float | None = None
    """Probability of Identity in each place of a pair when the search starts; null: uniform (the paper). Uniform pairs
    make small networks and short trainings underfit; with a high share, operations must earn theirs (ours). The
    controller `matching` with controller_lr 1 does not depend on the start."""
    online: Online

    def __post_init__(self) -> None:
        require(
            self.pairs_per_trunk is None or self.pairs_per_trunk >= 1,
            f"augmentation.pairs_per_trunk is {self.pairs_per_trunk}; use at least 1, or null",
        )
        require(
            self.identity_share is None or 0 < self.identity_share < 1,
            f"augmentation.identity_share is {self.identity_share}; use a share between 0 and 1, or null",
        )
        require(
            self.online.reward != "linear_probe",
            "augmentation.online.reward is linear_probe, which trains classifiers on features that a policy would "
            "change; use alignment",
        )
