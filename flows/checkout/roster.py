"""Describe each stage of dvc.yaml in one row of a table, for the commands, progress, MLflow's notes and the report.

A new stage is its file in flows/stages, its entry in dvc.yaml, its row here, its settings and its tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def latest(before: float, value: float) -> float:
    return value


def widest(before: float, value: float) -> float:
    return max(before, abs(value))


@dataclass(frozen=True)
class Figure:
    """The metric that shows how well a stage is doing, and the words to show it in."""

    metric: str
    """Regular expression that matches the metric's name."""
    words: str
    keep: Callable[[float, float], float] = latest
    """Combines the value shown so far with the new value into the value to show."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The properties of one stage."""

    does: str
    """The description of its runs in MLflow (Markdown); flows/report/notes.py adds what the run decided."""
    variants: str | None = None
    """The setting that lists its variants, such as `train.variants`; None if it has none."""
    resumes: bool = False
    """Whether it resumes after a kill: its `run` gets a folder in which it keeps what it has finished."""
    searches: bool = False
    """Whether it is a search, whose results `retrain.search: reuse` keeps."""
    measures: bool = False
    """Whether it measures times: a recorded input, which an audit does not compute again."""
    plans: bool = False
    """Whether it makes the plan, and so must not see an older one."""
    figure: Figure | None = None
    """The metric that is shown while it runs."""
    section: str | None = None
    """Anchor of the report's section that holds its charts."""


BEST_REWARD = "best reward {:.3f}"
ROSTER: Mapping[str, Stage] = {
    "plan": Stage(
        does="Measures how fast this machine trains and computes, looks at the data, and decides every setting that "
        "params.yaml leaves open. It is recorded: nothing later reads a clock.",
        measures=True,
        searches=True,
        plans=True,
        figure=Figure(r"plan/minutes/all", "{:.3g} minutes"),
        section="plan",
    ),
    "prepare": Stage(
        does="Decodes every image once, and puts it into the split (train, val or test) that its record says.",
        figure=Figure(r"prepare/images/train", "{:.0f} train images"),
    ),
    "latency": Stage(
        does="Measures every candidate block once in ONNX Runtime; networks are predicted by adding blocks up.",
        measures=True,
        figure=Figure(r"latency/calibration/error", "predictions within {:.1%}", widest),
    ),
    "architecture": Stage(
        does="Searches the block of each layer within the latency budget. Charts: `architecture/pool` is what the "
        "search expects of the first of its pool, stage by stage; `architecture/pool/rank_2` and so on of the others.",
        resumes=True,
        searches=True,
        figure=Figure(r"architecture/pool/potential", "best potential {:.3f}", max),
        section="architecture",
    ),
    "augmentation": Stage(
        does="Searches which pairs of operations on training images help on val. Charts: `augmentation` is the model "
        "and the policy, trunk by trunk; `augmentation/reward` the best and the mean reward; `augmentation/share` how "
        "often each operation is drawn; `augmentation/rewards` every reward.",
        resumes=True,
        searches=True,
        figure=Figure(r"augmentation/reward/best", BEST_REWARD, max),
        section="augmentation",
    ),
    "loss": Stage(
        does="Searches how hard and easy images weigh in training. Charts: `loss` is the model, trunk by trunk; "
        "`loss/reward` the best and the mean reward; `loss/rewards` every reward.",
        resumes=True,
        searches=True,
        figure=Figure(r"loss/reward/best", BEST_REWARD, max),
        section="loss",
    ),
    "race": Stage(
        does="Trains what could ship side by side, for a short time, and decides on val. Charts: `race/architecture`, "
        "`race/augmentation` and `race/loss` are the accuracies on val of the choices.",
        resumes=True,
        searches=True,
        figure=Figure(r"race/accuracy", "accuracy on val {:.2%}"),
        section="race",
    ),
    "train": Stage(
        does="Trains one network on train and val together, and exports the ONNX file. Charts: `train/loss` by epoch.",
        variants="train.variants",
        resumes=True,
        figure=Figure(r"train/loss", "loss {:.3f}"),
        section="training",
    ),
    "evaluate": Stage(
        does="Reads the test split, once for each variant: accuracy, latency and parity of the very files.",
        variants="train.variants",
        figure=Figure(r"evaluate/\w+/accuracy", "accuracy {:.2%}"),
        section="classes",
    ),
}
"""Word -> stage, in the order in which the line runs them."""

SEARCHES = tuple(word for word, stage in ROSTER.items() if stage.searches)
MEASURES = tuple(word for word, stage in ROSTER.items() if stage.measures)
INGEST = Figure(r"ingest/images", "{:.0f} images")
FIGURES = (INGEST, *(stage.figure for stage in ROSTER.values() if stage.figure))


def word_of(name: str) -> str:
    """Return the stage's name without its variant: `train` for `train@searched`."""
    return name.partition("@")[0]
