"""What a person can set, in the shape of params.yaml: one frozen dataclass a section.

The flows validate the file against these classes strictly (types, unknown keys); each class
checks its own values, so that a component used without the flows refuses the same mistakes.
"ours" marks a value that the papers do not give.
"""

import math
from dataclasses import dataclass
from typing import Literal

Blocks = tuple[str, ...]
STEERING = ("enas", "proxyless")
"""Strategies whose path weights say what the shared weights are trained on."""


def require(condition: bool, message: str) -> None:
    """Refuse a person's value with one sentence that says the rule, the value and what to do."""
    if not condition:
        raise ValueError(message)


class OtherSpace(ValueError):
    """What a search should start from is about another space than the settings'."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where labelled images come from and how they are split."""

    source: str
    """`digits`, `folder`, `parquet`, or `torchvision:NAME` (a data set's class name)."""
    path: str | None = None
    """Folder (`folder`, `torchvision:NAME`: its root) or file or folder of shards (`parquet`)."""
    size: int
    """Side, in pixels, of the square every image is resized to."""
    val: float
    """Share of each class's images that rewards are measured on."""
    test: float
    """Share of each class's images that only `evaluate` reads; unused if the source has its own test split."""
    max_pixels: int = 50_000_000
    """An image whose header announces more pixels is refused before it is decoded."""

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


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The target that latencies are measured on, and how."""

    provider: Literal["cpu", "cuda"] = "cpu"
    """ONNX Runtime execution provider; one that is missing is an error, never a silent CPU number."""
    threads: int = 1
    """ONNX Runtime intra-op threads; with 1 the time is the thread's CPU time, immune to preemption (not to a neighbour
    on the core's other hyper-thread: the quietest quarter of the runs counts)."""
    batch: int = 1
    """Images an inference."""
    optimisation: Literal["all", "extended", "basic", "none"] = "all"
    """ONNX Runtime's graph optimisation level; `all` is its own default, and what a service runs with."""
    repeats: int = 60
    """Timed runs of each block; the median of the quietest quarter counts."""
    calibration: int = 10
    """Whole networks measured to fit the line from sums of block latencies to network latency."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "repeats"):
            value = getattr(self, name)
            require(value >= 1, f"latency.{name} is {value}; use at least 1")
        require(self.calibration >= 3, f"latency.calibration is {self.calibration}; a line needs at least 3 networks")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The space of networks and PC-NAS (Li et al., CVPR 2020); see components/architecture/README.md."""

    latency_ms: float | tuple[float, ...]
    """The budget: milliseconds an inference of the shipped ONNX file may take on the target. A list: a network for each
    budget from one supernet; the line goes on with the first."""
    margin: float = 0.05
    """Share of the budget kept free during the search, for the table's prediction error (ours)."""
    max_parameters: int | None = None
    """Limit on trained numbers; null: none. This one and the next three are counted as components/architecture/costs.py
    says, and hold together with the budget."""
    max_flops: int | None = None
    """Limit on FLOPs an image: multiply-adds times 2; null: none."""
    max_memory_bytes: int | None = None
    """Limit on the peak memory of float32 activations, one image; null: none."""
    max_file_bytes: int | None = None
    """Limit on the float32 ONNX file, estimated within 3 %, which the search keeps free; an int8 file is far smaller.
    The gate weighs the file that ships; null: none."""
    stem: int
    """Channels after the first 3x3 convolution."""
    stem_stride: int
    """Stride of the first convolution: 1 for 8-32 pixels, 2 for larger."""
    stages: tuple[tuple[int, int, int], ...]
    """(channels, layers, stride of the first layer) from input to output."""
    blocks: Blocks
    """Candidates of every layer, the default network's first: mb_k{3,5,7}_e{1..6}[_se], res_k3, identity."""
    strategy: Literal["pc_nas", "random", "evolution", "aging_evolution", "ridge", "enas", "proxyless"] = "pc_nas"
    """The others are its rivals at as many evaluations; `random` is the control."""
    potential: Literal["mean", "additive"] = "additive"
    """`pc_nas`: a partial model's potential is the mean over completions (the paper) or what one ridge model over all
    scores expects (ours); `ridge` chooses among its finalists by their own scores or by the model."""
    population: int = 20
    """`evolution`: networks a generation (SPOS: 50); `aging_evolution`: networks alive (Real et al.: 100)."""
    mutation: float = 0.1
    """`evolution`: probability that a mutant's layer is drawn anew (SPOS: 0.1)."""
    controller_lr: float = 0.3
    """`enas`, `proxyless`: Adam step of the path weights (ENAS: 3.5e-4 and ProxylessNAS: 1e-3, of many thousands)."""
    latency_weight: float = 1.0
    """`proxyless`: weight of the expected latency, as a share of the limit, in the loss (ours)."""
    pool: int = 5
    """P, partial models kept a stage (paper: 5)."""
    completions: int = 4
    """S, completions scored for each candidate."""
    metric: Literal["accuracy", "likelihood"] = "likelihood"
    """A network's score on val: the share of images that it names rightly (the paper), or the geometric mean of the
    right classes' probabilities (ours): what is nearly right and what is hopeless differ, so it is less noisy."""
    warmup_epochs: float
    """Epochs of the whole supernet, paths uniform, before stage 1."""
    stage_epochs: float
    """Epochs of the shrinking supernet in each stage."""
    sampling: Literal["uniform", "fair"] = "uniform"
    """A random path a batch (SPOS), or FairNAS's rounds: paths that together hold every candidate of every layer, one
    update of them all."""
    score_images: int = 500
    """Images of val a completion is scored on; the last stage uses all of val."""
    recalibration_images: int = 512
    """Train images that re-estimate a sub-network's batch-norm statistics (at least 512, ours)."""
    max_images: int | None = None
    """Train the supernet on at most so many images; all if null."""
    finalists: int = 0
    """Networks of the last pool that are trained alone on train, and scored on val, before the choice (ours)."""
    finalist_epochs: int = 1
    """Epochs a finalist is trained."""

    @property
    def budget(self) -> float:
        """Milliseconds: the budget that the line goes on with."""
        return self.budgets[0]

    @property
    def budgets(self) -> tuple[float, ...]:
        """Milliseconds, the one that the line goes on with first."""
        return self.latency_ms if isinstance(self.latency_ms, tuple) else (self.latency_ms,)

    def __post_init__(self) -> None:
        require(self.budgets != (), "architecture.latency_ms is empty; give at least one budget")
        require(len(set(self.budgets)) == len(self.budgets), "architecture.latency_ms names a budget twice")
        for budget in self.budgets:
            require(budget > 0, f"architecture.latency_ms is {budget}; use a positive number")
        require(
            self.sampling == "uniform" or self.strategy not in STEERING,
            f"architecture.sampling is fair, but {self.strategy} trains the paths that it draws; use uniform",
        )
        require(
            len(self.budgets) == 1 or self.strategy not in STEERING,
            f"architecture.latency_ms names {len(self.budgets)} budgets, but {self.strategy} steers the training of "
            "shared weights towards one; name one, or use another strategy",
        )
        for name in ("max_parameters", "max_flops", "max_memory_bytes", "max_file_bytes"):
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"architecture.{name} is {value}; use at least 1, or null for no limit"
            )
        require(
            0 <= self.finalists <= self.pool,
            f"architecture.finalists is {self.finalists}; use 0 to architecture.pool ({self.pool})",
        )
        require(self.finalist_epochs >= 1, f"architecture.finalist_epochs is {self.finalist_epochs}; use at least 1")
        require(0 <= self.margin < 1, f"architecture.margin is {self.margin}; use 0 to below 1")
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
        for name in ("stem", "pool", "completions", "population", "score_images", "recalibration_images"):
            value = getattr(self, name)
            require(value >= 1, f"architecture.{name} is {value}; use at least 1")
        require(0 <= self.mutation <= 1, f"architecture.mutation is {self.mutation}; use a probability from 0 to 1")
        for name in ("controller_lr", "latency_weight", "warmup_epochs", "stage_epochs"):
            value = getattr(self, name)
            require(value >= 0, f"architecture.{name} is {value}; use 0 or more")
        require(
            self.max_images is None or self.max_images >= 1,
            f"architecture.max_images is {self.max_images}; use at least 1, or null for all",
        )


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
    broadcast: Literal["best", "average", "weighted"] = "average"
    """What the next trunk starts from: the best copy (paper), the copies' mean, or their reward-weighted mean; nothing
    to rewards that train one model."""
    reward: Literal["own", "leave_one_out", "first_order", "alignment", "linear_probe"] = "leave_one_out"
    """A copy's score (paper), its marginal contribution to the average of the copies, or that to first order: the
    change of val's log-likelihood along its step (ours). The others (ours) train one model instead of N copies:
    `alignment` asks every sample how far its gradient points where val's does, `linear_probe` (of the loss search)
    trains a new classifier on the model's features under every sample and scores that."""
    probe_images: int = 256
    """Training images of a sample's gradient (`alignment`) or classifier (`linear_probe`)."""
    metric: Literal[
        "accuracy", "balanced_accuracy", "macro_f1", "log_likelihood", "lq_likelihood", "calibrated_log_likelihood"
    ] = "log_likelihood"
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


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The augmentation policy's distribution (Lin et al., ICCV 2019); see components/augmentation/README.md."""

    settings: Literal["factored", "literal"] = "factored"
    """38 + 38 logits (Identity and Cutout added), or the paper's 1,296 pair logits."""
    pairs_per_trunk: int | None = 2
    """Pairs a copy commits to in a trunk; null: a fresh pair for every image (the paper). Nothing to `alignment`."""
    normalisation: Literal["sigmoid", "softmax"] = "sigmoid"
    """How logits become probabilities: sigmoid-normalised (the paper) or softmax."""
    cutout: bool = True
    """Whether Cutout is an element of the space (never always on); the literal space has none."""
    identity_share: float | None = None
    """Probability of Identity in each place of a pair when the search starts; null: uniform (the paper). Uniform pairs
    underfit small networks and short trainings; an operation must then earn its share (ours). `matching` with
    controller_lr 1 goes all the way to its match, wherever it starts."""
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
            self.identity_share is None or self.settings == "factored",
            "augmentation.identity_share needs augmentation.settings factored: the literal space has no Identity",
        )
        require(
            self.online.reward != "linear_probe",
            "augmentation.online.reward is linear_probe, which trains classifiers on features that a policy would "
            "change; use alignment",
        )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss family and its Gaussian (Li et al., ICCV 2019); see components/loss/README.md."""

    knots: int = 10
    """Values of t and of tau that are searched: with 10, A-softmax's t (m = 4) is met within 0.19 of its range of 8,
    ArcFace's (m = .5) with 7 or more within 0.061, for it falls where no member does."""
    sigma: float = 0.2
    """Standard deviation of the Gaussian over unconstrained knots (paper: 0.2)."""
    parametrisation: Literal["monotone", "literal"] = "monotone"
    """Rising curves by their values at knots (ours), or a free slope and intercept in each of knots - 1 intervals (the
    paper), for which most samples are lost: tau turns negative."""
    class_margins: bool = False
    """Search a margin a + b log n_c of class c too, from its n_c training images; t and tau are shared by all classes
    (ours)."""
    online: Online

    def __post_init__(self) -> None:
        require(self.knots >= 2, f"loss.knots is {self.knots}; use at least 2")
        require(self.sigma > 0, f"loss.sigma is {self.sigma}; use a positive number")
        require(
            not self.class_margins or self.parametrisation == "monotone",
            "loss.class_margins needs loss.parametrisation monotone; set one of them back",
        )
        require(
            self.online.controller != "matching",
            "loss.online.controller is matching, which needs the same samples in every trunk, but losses are drawn "
            "anew; use bandit",
        )
        require(
            self.online.copies % 2 == 0,
            f"loss.online.copies is {self.online.copies}; samples come in antithetic pairs, use an even number",
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train, shared by every search and the final training, so that what is searched is what ships."""

    batch_size: int = 64
    learning_rate: float = 0.1
    """Peak of the schedule: linear warm-up, then cosine to 0."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; meanwhile a found loss gives way to cross-entropy with its
    class margins, or some classes may never be learned (components/loss/README.md)."""
    momentum: float = 0.9
    """Nesterov."""
    weight_decay: float = 5.0e-4
    """On convolution and linear weights only."""
    label_smoothing: float = 0.0
    flip: bool = False
    """Random horizontal flips, before the searched policy."""
    crop: int = 0
    """Random crops from an image padded by so many pixels (reflected), before the searched policy."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, f"train.recipe.batch_size is {self.batch_size}; batch norm needs at least 2")
        require(self.learning_rate > 0, f"train.recipe.learning_rate is {self.learning_rate}; use a positive number")
        require(0 <= self.warmup < 1, f"train.recipe.warmup is {self.warmup}; use a share from 0 to below 1")
        require(0 <= self.momentum < 1, f"train.recipe.momentum is {self.momentum}; use 0 to below 1")
        require(self.weight_decay >= 0, f"train.recipe.weight_decay is {self.weight_decay}; use 0 or more")
        require(
            0 <= self.label_smoothing < 1,
            f"train.recipe.label_smoothing is {self.label_smoothing}; use 0 to below 1",
        )
        require(self.crop >= 0, f"train.recipe.crop is {self.crop}; use 0 or more pixels")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The final training of the searched network and of the baseline, on train and val together."""

    variants: tuple[str, ...] = ("searched", "baseline")
    """What is trained: `searched`, `baseline` and, of further budgets in `architecture.latency_ms`, those named here
    (`budget_2` is the second's) and in `evaluate.budgets`."""
    epochs: int
    ema: float = 0.0
    """Decay a step of the exponential moving average of the weights that ships, less while few steps are averaged (step
    t, from 0: at most (1 + t) / (10 + t)), so that the random first weights are gone soon; 0: the last weights ship."""
    recipe: Recipe

    def __post_init__(self) -> None:
        for name in ("searched", "baseline"):
            require(name in self.variants, f"train.variants lacks {name}, which `evaluate` compares; add it")
        require(len(set(self.variants)) == len(self.variants), "train.variants names a variant twice; name each once")
        require(self.epochs >= 1, f"train.epochs is {self.epochs}; use at least 1")
        require(0 <= self.ema < 1, f"train.ema is {self.ema}; use 0 (off) to below 1")


@dataclass(frozen=True, kw_only=True)
class Export:
    """The precision of the ONNX file that ships; block latencies are measured in the same one."""

    quantize: Literal["none", "int8"] = "none"
    """`int8`: static quantisation of the trained network, activations uint8, weights int8 (Jacob et al., CVPR 2018)."""
    calibration_images: int = 512
    """Train images that the ranges of the activations are taken from."""
    reduce_range: bool | None = None
    """Weights of 7 bits, so that sums cannot saturate on x86 processors without VNNI; null: where this machine's is one
    (then the machine is part of the result: set it, where several must give the same bytes)."""

    def __post_init__(self) -> None:
        count = self.calibration_images
        require(count >= 1, f"export.calibration_images is {count}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured once, on the test split, of the very file that ships."""

    repeats: int = 200
    """Timed runs of the ONNX file."""
    parity_images: int = 256
    """Test images on which torch and ONNX Runtime must give the same logits."""
    budgets: tuple[str, ...]
    """Those of `train.variants` that are of further budgets: each is measured beside its own limit. Without a default,
    since dvc.yaml makes a stage of each and knows none."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, f"evaluate.repeats is {self.repeats}; use at least 1")
        require(self.parity_images >= 1, f"evaluate.parity_images is {self.parity_images}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a model must show on the test split and on this machine before it may ship."""

    test: Literal["mcnemar", "bootstrap"] = "mcnemar"
    """`mcnemar`: refused if it is worse beyond chance (exact, one-sided). `bootstrap`: refused unless the images show
    that it loses no more than the margin (Bayesian bootstrap, one more image counted as lost): the burden of proof is
    the new model's, and few test images prove little: with a margin of 0.01 and alpha 0.05, it takes about 300 without
    a loss."""
    alpha: float = 0.05
    """Chance of error of the paired test; 0 turns it off, and the margin alone decides."""
    margin: float = 0.01
    """How far below the champion's accuracy a model may be, and ship."""
    class_alpha: float = 0.05
    """Chance of error of the paired tests of the single classes, all of them together (exact, one-sided, Holm); 0 turns
    them off. A class of few images is refused only for what its few images can show."""
    p99: float = 2.0
    """The 99th percentile of its latency, over all runs, may be so many times the budget; the budget itself is for the
    median of the quietest quarter of the runs, which others on the machine disturb least."""
    parity: float = 1.0e-3
    """Largest difference between torch's and ONNX Runtime's logits."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha < 1, f"gate.alpha is {self.alpha}; use 0 (off) to below 1")
        require(0 <= self.margin < 1, f"gate.margin is {self.margin}; use 0 to below 1")
        require(0 <= self.class_alpha < 1, f"gate.class_alpha is {self.class_alpha}; use 0 (off) to below 1")
        require(self.p99 >= 1, f"gate.p99 is {self.p99}; use at least 1")
        require(self.parity > 0, f"gate.parity is {self.parity}; use a positive number")


@dataclass(frozen=True, kw_only=True)
class Publish:
    """The registry."""

    model: str
    """Name of the registered model in MLflow."""

    def __post_init__(self) -> None:
        require(self.model != "", "publish.model is empty; name the registered model")


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Where the copies of a search run; never changes a result."""

    backend: Literal["sequential", "loky", "ray", "dask"] = "loky"
    """`loky`: processes here; `ray`, `dask` (extras): a cluster that sees the data at the same path, or one started
    here."""
    workers: int = 2
    """Copies at a time; 1 runs them in the stage's own process, whatever the backend."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"parallel.workers is {self.workers}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """When a deployment trains anew by itself, and what it searches then."""

    search: Literal["fresh", "warm", "reuse"] = "fresh"
    """Of deployments. `warm`: the searches start from the pool and the distributions that those of the version in
    service ended with; `reuse`: keep that version's architecture, augmentation and loss, and only train."""
    min_new_images: int = 200
    """New images that are reason enough (ours)."""
    shift_alpha: float = 0.01
    """Level of the test whether fewer new images are of another distribution, each time there are others (ours)."""

    def __post_init__(self) -> None:
        require(self.min_new_images >= 1, f"retrain.min_new_images is {self.min_new_images}; use at least 1")
        require(0 <= self.shift_alpha < 1, f"retrain.shift_alpha is {self.shift_alpha}; use 0 (never) to below 1")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml."""

    seed: int
    threads: int
    """torch threads outside the copies (a copy always uses 1): part of the result, so it is fixed here."""
    device: Literal["cpu", "cuda"]
    """Where networks train: the CPU, or all CUDA devices here (copy n of a search on the n-th, in turns); part of the
    result. `cuda` where there is none is an error, never a silent CPU run; what ships is exported from the CPU."""
    parallel: Parallel
    data: Data
    latency: Latency
    architecture: Architecture
    augmentation: Augmentation
    loss: Loss
    train: Train
    export: Export
    evaluate: Evaluate
    gate: Gate
    publish: Publish
    retrain: Retrain = Retrain()

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed is {self.seed}; use 0 or more")
        require(self.threads >= 1, f"threads is {self.threads}; use at least 1")
        recipe = self.train.recipe
        require(
            recipe.crop < self.data.size,
            f"train.recipe.crop is {recipe.crop} pixels of an image of {self.data.size} (data.size); use fewer",
        )
        for name in ("augmentation", "loss"):
            start = getattr(self, name).online.head_start
            require(
                start == 0 or start >= recipe.batch_size,
                f"{name}.online.head_start is {start} images, less than a batch ({recipe.batch_size}); use 0 or more",
            )
        budgets = len(self.architecture.budgets)
        known = ("searched", "baseline", *(f"budget_{number}" for number in range(2, budgets + 1)))
        for name in self.train.variants:
            require(
                name in known,
                f"train.variants names {name!r}; with {budgets} budgets in architecture.latency_ms, known are "
                f"{', '.join(known)}",
            )
        further = [name for name in self.train.variants if name.startswith("budget_")]
        require(
            sorted(self.evaluate.budgets) == sorted(further),
            f"evaluate.budgets is [{', '.join(self.evaluate.budgets)}], but train.variants names "
            f"[{', '.join(further)}] of further budgets; name the same in both: what is trained is measured",
        )
        require(
            self.export.quantize == "none" or self.latency.provider == "cpu",
            f"export.quantize is {self.export.quantize} and latency.provider {self.latency.provider}: ONNX Runtime "
            "computes this file in integers on the CPU only; set export.quantize none, or latency.provider cpu",
        )
