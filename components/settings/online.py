"""What the online searches share: `augmentation.online`, `loss.online`."""

import math
from dataclasses import dataclass
from typing import Literal

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Online:
    """Online hyper-parameter learning (Lin et al., ICCV 2019, Algorithm 1); see components/augmentation/README.md."""

    trunks: int
    """T_max, rounds of training, reward and update (paper: 300)."""
    copies: int = 8
    """N, copies of the model trained side by side in a trunk (paper: 8). Of one model the loss search asks so many
    samples, and the augmentation search every element, whatever this says."""
    images: int
    """Training images each copy sees in a trunk (paper: one epoch)."""
    head_start: int = 0
    """Training images of one network, without what is searched, before the first trunk (ours): from noise, all copies
    learn the same whatever they draw."""
    controller: Literal["reinforce", "bandit", "matching", "null"] = "reinforce"
    """The paper's, one linear model over all rewards (ours), the mixture whose gradients match val's (ours), or never
    moved: the control of every claim."""
    controller_lr: float = 0.2
    """`reinforce`: Adam step of the distribution's parameters (paper: 0.05; 0.2 and more learn at small scale).
    `bandit`: shift of a parameter for each standard deviation by which its effect differs from 0. `matching`: share of
    the way from the start to the match, 1 for all of it."""
    broadcast: Literal["best", "average"] = "average"
    """What the next trunk starts from: the best copy (paper), or the copies' mean (ours); nothing to rewards that
    train one model."""
    reward: Literal["own", "leave_one_out", "alignment", "linear_probe"] = "leave_one_out"
    """A copy's score (paper), or its marginal contribution to the average of the copies (ours). The others (ours) train
    one model instead of N copies: `alignment` asks every sample how far its gradient points where val's does,
    `linear_probe` (of the loss search) trains a new classifier on the model's features under every sample and scores
    that."""
    probe_images: int = 256
    """Training images of a sample's gradient (`alignment`) or classifier (`linear_probe`)."""
    metric: Literal["accuracy", "log_likelihood", "lq_likelihood", "calibrated_log_likelihood"] = "log_likelihood"
    """What is measured on val; lq: between accuracy, which bears wrong labels, and log-likelihood, which counts what is
    hopeless; calibrated: at the best temperature, so that mere doubt earns nothing (ours). With `alignment` the
    augmentation search rewards by the log-likelihood, and this is what its progress shows."""
    warmup_trunks: int = 2
    """Trunks before the distribution first moves; the controller learns from their rewards already."""
    learn_until: float = 0.8
    """Share of the trunks after which the distribution stands still: late learning rates carry no signal."""
    score_images: int | None = None
    """Images of val a reward is measured on; all if null."""

    def __post_init__(self) -> None:
        require(self.trunks >= 1, f"trunks is {self.trunks}; use at least 1")
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
            self.controller == "null" or self.warmup_trunks < self.last_learned,
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
        """Whether a trunk trains one model, whatever is tried, instead of a copy for every sample."""
        return self.reward in ("alignment", "linear_probe")

    @property
    def last_learned(self) -> int:
        """Trunks after which the distribution stands still."""
        return math.ceil(round(self.learn_until * self.trunks, 9))  # 0.55 * 100 is 55, not a little more
