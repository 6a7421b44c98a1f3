"""Stage `loss`: search the loss with AM-LFS, on the searched network and with the found augmentation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from components.architecture.network import make_network
from components.augmentation.policy import Policy
from components.data.store import open_split, read_classes, read_statistics
from components.loss.chart import loss_curves
from components.loss.family import KNOWN, Member, decode
from components.loss.search import LossWorld
from components.online.engine import Trunk
from components.online.gaussian import Sample
from components.online.rewards import model_of
from components.settings.loss import Loss
from components.settings.parallel import Parallel
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace
from components.training.loop import State
from flows.checkout import files, paths
from flows.resume.online_search import finished_trunks, resume_search
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer
from flows.runtime.workers import joblib_parallel

CURVES, CURVES_CHART = paths.LOSS / "curves.csv", paths.LOSS / "curves.svg"
SCALED_AT = 8
"""Number of states along the search at which the found loss's scale is measured."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    device: str
    parallel: Parallel
    loss: Loss
    space: SearchSpace
    recipe: Recipe


def run(params: Reads, observe: Observer, checkpoint: Path) -> None:
    """Write the loss, every trunk reward of every copy with its knots, and the curves beside known losses."""
    online = params.loss.online
    if not online.trunks:
        write(decode(np.zeros(2 * params.loss.knots), params.recipe.label_smoothing), [])
        return
    world = world_of(params)
    search = partial(world.search, joblib_parallel(params.parallel, observe))
    keep = partial(scaled_weights, trunks=online.trunks)
    states, rows = [], []
    done, trunks = finished_trunks(checkpoint), resume_search(search, checkpoint, online, keep)
    for trunk in observe.progress(trunks, online.trunks, "loss trunks", done=done):
        rows += list(copy_rows(trunk))
        states += [scaled] if (scaled := keep(trunk)) else []
        observe.metrics(trunk_metrics(trunk), step=trunk.index)
    write(world.found(trunk.theta, states), rows)
    for file in (paths.FOUND_LOSS, paths.LOSS_TRUNKS, CURVES, CURVES_CHART):
        observe.file(file)


def write(loss: Member, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the loss, the rewards, and the curves beside known losses; a search that does not run has cross-entropy."""
    files.write_json(paths.FOUND_LOSS, loss.to_json())
    files.write_csv(paths.LOSS_TRUNKS, rows)
    files.write_csv(CURVES, list(curve_rows(loss)))
    files.write_text(CURVES_CHART, loss_curves(loss))


def world_of(params: Reads) -> LossWorld:
    """Set up the loss search with the network and the augmentation that the earlier searches found."""
    devices = devices_of(params.device)
    classes, statistics = read_classes(paths.CLASSES), read_statistics(paths.STATISTICS)
    found = files.read_json(paths.FOUND_ARCHITECTURE)["architecture"]
    return LossWorld(
        make=partial(make_network, params.space, classes, statistics, found, params.seed),
        train=open_split(paths.TRAIN),
        val=open_split(paths.VAL),
        augment=Policy.from_json(files.read_json(paths.FOUND_AUGMENTATION)).augment(),
        settings=params.loss,
        recipe=params.recipe,
        seed=params.seed,
        devices=devices,
    )


def scaled_weights(trunk: Trunk[Sample], trunks: int) -> State:
    """Return the weights without momentum if the trunk is one of `SCALED_AT` evenly spaced ones, the last included."""
    scaled = (trunk.index + 1) * SCALED_AT // trunks > trunk.index * SCALED_AT // trunks
    return model_of(trunk.state) if scaled else {}


def copy_rows(trunk: Trunk[Sample]) -> Iterator[dict[str, object]]:
    """Yield a row for each copy: `sample_i` is what it tried, `theta_i` the Gaussian's mean after the trunk.

    The components are those of t, then those of tau.
    """
    for copy, sample in enumerate(trunk.samples):
        row = {
            "trunk": trunk.index,
            "copy": f"copy_{copy}",
            "reward": trunk.rewards[copy],
            "score": trunk.scores[copy],
            "fault": trunk.faults[copy],
            "best": copy == trunk.best,
            "broadcast_score": trunk.score,
        }
        tried = {f"sample_{knot}": value for knot, value in enumerate(sample)}
        yield row | tried | {f"theta_{knot}": value for knot, value in enumerate(trunk.theta.tolist())}


def curve_rows(loss: Member) -> Iterator[dict[str, object]]:
    """Yield 101 points of t over [-1, 1] and of tau over [0, 1], for the found loss and the known ones."""
    shares = np.linspace(0, 1, 101)
    cosines = 2 * shares - 1
    columns = {"cosine": cosines, "t": loss.curve("t", cosines)}
    columns |= {f"t_{name}": KNOWN[name].t(cosines) for name in ("softmax", "am_softmax", "arcface")}
    columns |= {"p": shares, "tau": loss.curve("tau", shares)}
    columns |= {f"tau_{name}": KNOWN[name].tau(shares) for name in ("softmax", "focal")}
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, row, strict=True))


def trunk_metrics(trunk: Trunk[Sample]) -> dict[str, float]:
    """Return metrics of the model and the rewards after a trunk.

    MLflow groups charts by the part of the name before the last /.
    """
    return {
        "loss/score": trunk.score,
        "loss/distance_from_cross_entropy": float(np.linalg.norm(trunk.theta)),
        "loss/reward/best": trunk.rewards[trunk.best],
        "loss/reward/mean": float(np.nanmean(trunk.rewards)),
        **{f"loss/rewards/copy_{copy}": reward for copy, reward in enumerate(trunk.rewards)},
    }
