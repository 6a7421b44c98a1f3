"""Settings that the online searches share (sections `augmentation.online` and `loss.online`)."""

import math
from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Online:
    """Settings of online hyper-parameter learning (Lin et al., ICCV 2019, Algorithm 1); see
    components/augmentation/README.md."""

    trunks: int
    """T_max, the number of rounds of training, reward and update (paper: 300); 0: nothing is searched."""
    copies: int = 8
    """N, the number of copies of the model that train side by side in a trunk (paper: 8). With rewards that train one
    model, the loss search tries so many samples, and the augmentation search tries every element whatever this says."""
    images: int
    """Number of training images that each copy sees in a trunk (paper: one epoch)."""
    head_start: int = 0
    """Number of training images of the warm-up training: one network, without what is searched, before the first trunk
    (ours). Copies that start from random weights learn the same whatever they draw."""
    controller: Literal["reinforce", "bandit", "matching", "null"] = "reinforce"
    """How rewards move the distribution: `reinforce` is the paper's, `bandit` fits a linear model to all rewards
    (ours), `matching` finds the mixture of samples whose gradients match val's (ours), `null` never moves it (the
    control)."""
    controller_lr: float = 0.2
    """`reinforce`: Adam's step for the distribution's parameters (paper: 0.05; 0.2 and more learn at small scale).
    `bandit`: shift of a parameter for each standard deviation by which its effect differs from 0. `matching`: fraction
    of the way from the start to the match, 1 for all of it."""
    broadcast: Literal["best", "average"] = "average"
    """What the next trunk starts from: the best copy (paper), or the copies' mean (ours). Rewards that train one model
    do not use it."""
    reward: Literal["own", "leave_one_out", "alignment", "linear_probe"] = "leave_one_out"
    """`own`: a copy's score (paper). `leave_one_out`: its marginal contribution to the average of the copies (ours).
    The others (ours) train one model instead of N copies: `alignment` compares the direction of every sample's gradient
    with val's; `linear_probe` (loss search only) trains a new classifier on the model's features under every sample and
    scores it."""
    probe_images: int = 256
    """Number of training images for a sample's gradient (`alignment`) or classifier (`linear_probe`)."""
    metric: Literal["accuracy", "log_likelihood", "lq_likelihood", "calibrated_log_likelihood"] = "log_likelihood"
    """The metric on val. `lq_likelihood` lies between accuracy, which tolerates wrong labels, and log-likelihood, which
    counts how hopeless an image is; `calibrated_log_likelihood` is taken at the best temperature, so that less
    confidence alone earns nothing (ours). With `alignment` the augmentation search is rewarded by the log-likelihood,
    and its progress shows this metric."""
    warmup_trunks: int = 2
    """Number of trunks before the distribution first moves; the controller already learns from their rewards."""
    learn_until: float = 0.8
    """Share of the trunks after which the distribution no longer moves: low learning rates carry no signal."""
    score_images: int | None = None
    """Number of val images that a reward is measured on; null: all."""

    def __post_init__(self) -> None:
        require(self.trunks >= 0, f"trunks is {self.trunks}; use 0 (no search) or more")
        require(self.copies >= 2, f"copies is {self.copies}; a reward needs at least 2 copies to compare")
        require(self.images >= 1, f"images is {self.images}; use at least 1")
        require(
            self.controller != "matching" or (self.reward == "alignment" and self.controller_lr <= 1),
            f"controller is matching with reward {self.reward} and controller_lr {self.controller_lr}: matching reads "
            f"gradients and moves a share of the way; use reward alignment and a controller_lr of at most 1",
        )
        require(
            self.controller != "reinforce" or self.reward != "alignment",
            "controller is reinforce with reward alignment, whose samples are not drawn from the distribution; "
            "use matching or bandit",
        )
        require(self.probe_images >= 1, f"probe_images is {self.probe_images}; use at least 1")
        require(self.head_start >= 0, f"head_start is {self.head_start}; use 0 or more images")
        require(self.controller_lr >= 0, f"controller_lr is {self.controller_lr}; use 0 or more")
        require(self.warmup_trunks >= 0, f"warmup_trunks is {self.warmup_trunks}; use 0 or more")
        require(0 < self.learn_until <= 1, f"learn_until is {self.learn_until}; use a share above 0, at most 1")
        require(
            self.controller == "null" or self.trunks == 0 or self.warmup_trunks < self.last_learned,
            f"warmup_trunks is {self.warmup_trunks} and learn_until {self.learn_until} of {self.trunks} trunks: "
            "the distribution would never move; use fewer warmup_trunks, or controller null",
        )
        require(
            self.score_images is None or self.score_images >= 1 + (self.reward == "alignment"),
            f"score_images is {self.score_images}; use at least 1, with reward alignment (which compares two halves) "
            "2, or null for all",
        )

    @property
    def one_model(self) -> bool:
        """Whether a trunk trains one model instead of a copy for every sample."""
        return self.reward in ("alignment", "linear_probe")

    @property
    def last_learned(self) -> int:
        """Number of trunks after which the distribution no longer moves."""
        return math.ceil(round(self.learn_until * self.trunks, 9))  # 0.55 * 100 is 55, not a little more
