"""Does the loss search pay where data is hard? Wrong labels, rare classes, few images; equal compute, nulls, an oracle.

See `hard.py` for the worlds. Methods, all with compute C and a final training from scratch (a search leaves it what it
has not spent):

    cross_entropy smooth_* focal_* am_* gce_* adjusted_*    no search: a published loss at each point of a grid
    chosen                                                  half of C to train the grid's losses on train and compare
                                                            them on val, half for the one that did best there
    oracle_*                                                a grid in our own family, best in hindsight: what can be won
    begun_*                                                 GCE begun as a found loss is (below): is that the gain?
    left_*                                                  GCE on as few images as the search leaves: or is that it?
    search                                                  the presets' search: one model, linear probes, linear bandit
    gradients                                               one model and its gradients (reward `alignment`)
    shuffled                                                as search, each probe's score credited to another sample
    turned                                                  as search, at its end each number keeps its size and gets a
                                                            sign by chance: as far from cross-entropy, not learned
    step_0                                                  as search, the controller never moves: cross-entropy with
                                                            what is left of C
    random                                                  another loss around cross-entropy for every batch, none
                                                            learned (Wang et al., ICML 2020)
    stopped                                                 cross-entropy on as few images as `copies` leaves: under
                                                            wrong labels, stopping early is a remedy of its own
    copies                                                  4 copies, averaged; leave-one-out rewards, linear bandit
    paper                                                   4 copies, own score, best of N, REINFORCE at 0.05

Searched and random losses and oracles begin under cross-entropy, with their class margins, while the learning rate
rises (`Member.beginning`), as in the line. What probes and gradients of samples cost is not in C but in `cpu_seconds`.

"best fixed" in the table is the fixed loss with the best mean test accuracy over the seeds: hindsight, which no
user has; `chosen` is what a user can do with the same compute. AM-softmax trains normalised features at scale `S`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from components.loss.family import Member, SearchedLoss, decode
from components.loss.search import LossWorld
from components.online.rewards import model_of
from components.settings.loss import Loss
from components.settings.online import Online
from components.training.inference import predict, split_tensors
from components.training.loop import Criterion, cross_entropy, initial_state, load_state
from components.training.parallel import Parallel, sequential
from tests.benchmarks.augmentation_shift import average, cell_of, groups, lead
from tests.benchmarks.hard import CLASSES, TASKS, Hard, accuracy_of, build, counts_of, hard_of, make_of, train_network
from tests.benchmarks.harness import Row, markdown

SEEDS = (11, 12, 13, 14, 15)  # the settings were chosen on seeds 1, 2 and 3
FEWER = (11, 12, 13)
DATA_TASKS = {
    "digits": (SEEDS, tuple(TASKS)),
    "cifar10": (FEWER, ("clean", "noise 40 %", "noise 40 %, val too", "imbalance 1:50")),
}
ON_FEW = (
    "cross_entropy",
    "smooth_0.3",
    "stopped",
    "gce_0.7",
    "gce_0.9",
    "adjusted_1",
    "oracle_0.4",
    "begun_0.7",
    "search",
    "gradients",
    "shuffled",
    "turned",
)
"""Methods on the larger data set."""
WORKERS = 2
AGAIN = (0.7, 0.9)
"""q of GCE, trained in other ways too."""
KNOTS = 10
S = 16.0
"""Scale of AM-softmax's cosines."""

ALIGNED: dict[str, Any] = {
    "reward": "alignment", "controller": "bandit", "controller_lr": 0.1, "metric": "lq_likelihood", "copies": 128,
    "trunks": 4, "warmup_trunks": 0, "learn_until": 1.0, "probe_images": 512,
}  # fmt: skip
PROBED = ALIGNED | {"reward": "linear_probe", "controller_lr": 0.15, "copies": 64}
RACED: dict[str, Any] = {"copies": 4, "trunks": 16, "controller": "bandit", "controller_lr": 0.25, "images": 256}
SEARCHES: dict[str, dict[str, Any]] = {
    "search": PROBED,
    "gradients": ALIGNED,
    "shuffled": PROBED,
    "copies": RACED | {"reward": "leave_one_out", "metric": "log_likelihood"},
    "paper": RACED
    | {"reward": "own", "broadcast": "best", "metric": "accuracy", "controller": "reinforce", "controller_lr": 0.05},
}


def rows() -> Iterator[Row]:
    cells = [(data, task, seed) for data, (seeds, tasks) in DATA_TASKS.items() for seed in seeds for task in tasks]
    run = joblib.Parallel(n_jobs=WORKERS, return_as="generator", batch_size=1)
    for measured in run(joblib.delayed(cell)(*each) for each in cells):
        yield from measured


def cell(data: str, task: str, seed: int) -> list[Row]:
    """All methods on one data set, task and seed."""
    torch.set_num_threads(1)
    hard = hard_of(data, task, seed)
    chosen = set(ON_FEW) if data == "cifar10" else None
    where = {"data": data, "task": task, "seed": seed}
    return [
        where | measured(hard, name, method)
        for name, method in methods(hard).items()
        if chosen is None or name in chosen
    ]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method trains the last network under, and what it has spent to know that."""

    criterion: Criterion
    beginning: Criterion | None = None
    images: int = 0
    tau_0: float | None = None
    """Of a searched loss."""


Method = Callable[[], Found]


def methods(hard: Hard) -> dict[str, Method]:
    of_search, of_copies = (spent_images(hard, settings_of(hard, name).online) for name in ("search", "copies"))
    left = {f"left_{q}": Found(criterion=partial(gce, q), images=of_search) for q in AGAIN}
    members = {name: Found(criterion=loss, beginning=loss.beginning()) for name, loss in oracles(hard).items()}
    known = {name: partial(replace, one) for name, one in (fixed(hard) | left | members).items()}
    searches: dict[str, Method] = {name: partial(found, hard, name) for name in SEARCHES}
    searches["turned"] = partial(found, hard, "search", turned=True)
    step_0, stopped = (partial(Found, criterion=cross_entropy(), images=spent) for spent in (of_search, of_copies))
    return {
        **known,
        **searches,
        "step_0": step_0,
        "stopped": stopped,
        "random": partial(Found, criterion=RandomLosses(hard), beginning=cross_entropy()),
        "chosen": partial(choose, hard),
    }


def measured(hard: Hard, name: str, method: Method) -> Row:
    start = time.process_time()
    known = method()
    state = train_network(hard, hard.final, known.criterion, hard.data.compute - known.images, known.beginning)
    network = build(hard)
    load_state(network, state)
    images, labels = split_tensors(hard.test)
    logits = predict(network, images)
    return {
        "method": name,
        "test_accuracy": round((logits.argmax(dim=1) == labels).double().mean().item(), 5),
        "balanced_accuracy": round(float(balanced_accuracy_score(labels, logits.argmax(dim=1))), 5),
        "cpu_seconds": round(time.process_time() - start, 1),
        "tau_0": None if known.tau_0 is None else round(known.tau_0, 3),
    }


# --- without a search


def published(hard: Hard) -> dict[str, Criterion]:
    """The grid of known losses; adjusted logits where classes are rare."""
    counts = counts_of(hard.final.labels)
    grid: dict[str, Criterion] = {"cross_entropy": cross_entropy()}
    grid |= {f"smooth_{e}": cross_entropy(e) for e in (0.1, 0.3)}
    grid |= {f"focal_{alpha}": partial(focal, alpha) for alpha in (1, 2)}
    grid |= {f"am_{m}": partial(am_softmax, m) for m in (0.1, 0.35)}
    grid |= {f"gce_{q}": partial(gce, q) for q in (0.5, 0.7, 0.9)}
    rare = {f"adjusted_{b}": partial(adjusted, counts, b) for b in (1, 1.5)}
    return grid | (rare if hard.task.imbalance < 1 else {})


def fixed(hard: Hard) -> dict[str, Found]:
    """The published losses, and GCE begun as a found loss is."""
    begun = {f"begun_{q}": Found(criterion=partial(gce, q), beginning=cross_entropy()) for q in AGAIN}
    return {name: Found(criterion=loss) for name, loss in published(hard).items()} | begun


def label_log_p(logits: Float[Tensor, "b k"], y: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    return logits.log_softmax(dim=1).gather(1, y[:, None]).squeeze(1)


def focal(alpha: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """Lin et al., ICCV 2017."""
    log_p = label_log_p(x @ w.T, y)
    return (-((1 - log_p.exp()) ** alpha) * log_p).mean()


def am_softmax(m: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """Wang et al., 2018."""
    cosines = F.normalize(x) @ F.normalize(w).T
    return F.cross_entropy(S * (cosines - m * F.one_hot(y, CLASSES)), y)


def gce(q: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """(1 - p^q) / q: Zhang and Sabuncu, NeurIPS 2018."""
    return -torch.expm1(q * label_log_p(x @ w.T, y)).mean() / q


def adjusted(counts: Int64[np.ndarray, " k"], b: float, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """Logits plus b log n_c (Menon et al., ICLR 2021); b = 1: balanced softmax (Ren et al., NeurIPS 2020)."""
    return F.cross_entropy(x @ w.T + b * torch.from_numpy(np.log(counts)).float(), y)


def choose(hard: Hard) -> Found:
    """The fixed loss that does best on val after training on train."""
    grid = fixed(hard)
    each = hard.data.compute // 2 // len(grid)

    def score(one: Found) -> float:
        return accuracy_of(hard, train_network(hard, hard.train, one.criterion, each, one.beginning), hard.val)

    scored = len(grid) * len(hard.val.labels) // 3
    return replace(max(grid.values(), key=score), images=len(grid) * each + scored)


def oracles(hard: Hard) -> dict[str, SearchedLoss]:
    """tau from tau_0 to 1 in a line, t with a margin, adjusted logits where classes are rare."""
    grid = {f"oracle_{tau_0}": line(tau_0) for tau_0 in (0.2, 0.4, 0.5)}
    grid |= {f"oracle_m{m}": line(0.0, m) for m in (-0.1, 0.1)}
    counts = np.log(counts_of(hard.final.labels))
    rare = {f"oracle_b{b}": line(0.0, b=(b * (counts - counts.mean())).tolist()) for b in (0.5, 1.0, 1.5)}
    return grid | (rare if hard.task.imbalance < 1 else {})


def line(tau_0: float, margin: float = 0.0, b: list[float] | None = None) -> SearchedLoss:
    return SearchedLoss(t=[-1.0 - margin, 1.0 - margin], tau=[tau_0, 1.0], class_logits=b)


class RandomLosses:
    """A criterion that is another loss every time, from the Gaussian that the search starts with."""

    def __init__(self, hard: Hard) -> None:
        self.rng = np.random.default_rng((hard.seed, 5))
        self.sigma = settings_of(hard, "search").sigma
        self.counts = counts_of(hard.final.labels)

    def __call__(
        self, features: Float[Tensor, "b d"], weight: Float[Tensor, "k d"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        theta = self.sigma * self.rng.standard_normal(2 * KNOTS + 2)
        return decode(theta, counts=self.counts)(features, weight, labels)


# --- with one


def settings_of(hard: Hard, name: str) -> Loss:
    chosen = SEARCHES[name]
    size = {} if "images" in chosen else hard.data.search_size
    return Loss(knots=KNOTS, class_margins=name != "paper", online=Online(**(size | chosen)))


def world_of(hard: Hard, settings: Loss) -> LossWorld:
    return LossWorld(
        make=make_of(hard), train=hard.train, val=hard.val, settings=settings, recipe=hard.data.recipe, seed=hard.seed
    )


def loss_at(theta: Sequence[float], hard: Hard, settings: Loss) -> Member:
    """For the images that the last network trains on."""
    world = replace(world_of(hard, settings), train=hard.final)
    return world.loss(theta, initial_state(world.make()))


def found(hard: Hard, name: str, turned: bool = False) -> Found:
    """The searched loss; its class margins are those of the images that the last network trains on."""
    theta, scale = searched(hard, name)
    if turned:
        theta = (np.random.default_rng((hard.seed, 4)).choice((-1.0, 1.0), len(theta)) * theta).tolist()
    settings = settings_of(hard, name)
    loss = loss_at(theta, hard, settings)
    return Found(
        criterion=loss.at_scale(scale),
        beginning=loss.beginning(),
        images=spent_images(hard, settings.online),
        tau_0=float(loss.curve("tau", np.zeros(1))[0]),
    )


def searched(hard: Hard, name: str) -> tuple[list[float], float]:
    """theta, and the scale that matches its loss to cross-entropy along the search."""
    world = world_of(hard, settings_of(hard, name))
    trunks = list(world.search(misdirected(hard.seed) if name == "shuffled" else sequential))
    theta = trunks[-1].theta
    return theta.tolist(), world.found(theta, [model_of(trunk.state) for trunk in trunks]).scale


def spent_images(hard: Hard, online: Online) -> int:
    """Training images of a search, and a third of those that went through the network without a gradient: scored, or
    turned into features (once for cross-entropy and all samples). A gradient costs what a training step does: of two
    losses on a batch, for every matching."""
    val, batch = len(hard.val.labels), hard.data.recipe.batch_size
    if online.one_model:
        probed = min(online.probe_images, len(hard.train.labels))
        trunk = online.images + (probed + 2 * val) // 3 + 2 * batch
    else:
        trunk = online.copies * (online.images + 2 * batch) + (online.copies + 1) * val // 3 + 2 * batch
    return online.head_start + online.trunks * trunk


def misdirected(seed: int) -> Parallel:
    """A `Parallel` that credits probes' scores to the wrong samples; training is left alone."""
    rng = np.random.default_rng((seed, 3))

    def run(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        results = sequential(function, arguments)
        if any(isinstance(result, tuple) for result in results):
            return results
        ends = np.cumsum([len(stack) for stack in results])
        return [scores.tolist() for scores in np.split(rng.permutation(np.concatenate(results)), ends[:-1])]

    return run


# --- the table

FIXED = ("cross", "smooth", "focal", "am", "gce", "begun", "left", "adjusted")
NULLS = ("shuffled", "turned", "step_0", "random")
OTHERS = ("cross_entropy", "stopped", "chosen", "copies", "paper", "gradients", "search")


def table(rows: Sequence[Row]) -> str:
    lines = []
    for where, of in groups(rows):
        names = list(dict.fromkeys(str(row["method"]) for row in rows))
        grid = [name for name in names if name.split("_")[0] in FIXED]
        best = best_of(of, grid)
        oracle = best_of(of, [name for name in names if name.startswith("oracle")])
        null = best_of(of, NULLS)
        shown = [f"{name} {cell_of(of(name))}" for name in (best, oracle, null)]
        others = [cell_of(of(name)) for name in OTHERS]
        leads = [lead(of("search"), of(rival)) for rival in (best, null, "cross_entropy")]
        cpu = [of(name, "cpu_seconds", 1.0) for name in ("search", "cross_entropy")]
        lines.append([where, *shown, *others, *leads, f"{np.median(np.divide(*cpu)):.1f}"])
    header = ["data, task", "best fixed (hindsight)", "oracle in the family", "best null"]
    header += ["cross-entropy", "stopped early", "chosen by val", "copies", "paper", "by gradients", "search"]
    header += ["search - best fixed", "search - best null", "search - cross-entropy", "CPU, search / cross-entropy"]
    return markdown(header, lines)


def best_of(of: Callable[..., list[float]], names: Sequence[str]) -> str:
    """Of those that were run, the one with the best mean."""
    return max((name for name in names if of(name)), key=lambda name: average(of(name)))
