"""Stage `augmentation`: search which pairs of operations help, with OHL-Auto-Aug on the searched network."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from components.architecture.network import make_network
from components.augmentation.distribution import FactoredPairs, first_distribution, format_pairs, policy_of
from components.augmentation.policy import Pairs, Policy
from components.augmentation.search import search_augmentation
from components.data.store import open_split, read_classes, read_statistics
from components.online.engine import Trunk
from components.settings.augmentation import Augmentation
from components.settings.parallel import Parallel
from components.settings.recipe import Recipe
from components.settings.space import SearchSpace
from flows.checkout import files, paths
from flows.resume.online_search import finished_trunks, resume_search
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer
from flows.runtime.workers import joblib_parallel

PLACES = 2
"""Number of operations that an image gets, Identity included."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    device: str
    parallel: Parallel
    augmentation: Augmentation
    space: SearchSpace
    recipe: Recipe


def run(params: Reads, observe: Observer, checkpoint: Path) -> None:
    """Write the policy, every trunk reward of every copy, and the distribution after every trunk."""
    devices = devices_of(params.device)
    classes, statistics = read_classes(paths.CLASSES), read_statistics(paths.STATISTICS)
    found = files.read_json(paths.FOUND_ARCHITECTURE)["architecture"]
    network = partial(make_network, params.space, classes, statistics, found, params.seed)
    settings = params.augmentation
    if not settings.online.trunks:
        write_identity(settings)
        return
    distribution = first_distribution(settings)
    search = partial(
        search_augmentation,
        network,
        open_split(paths.TRAIN),
        open_split(paths.VAL),
        settings=settings,
        recipe=params.recipe,
        seed=params.seed,
        distribution=distribution,
        devices=devices,
        parallel=joblib_parallel(params.parallel, observe),
    )
    done, trunks = finished_trunks(checkpoint), resume_search(search, checkpoint, settings.online)
    copies, shares = [], []
    for trunk in observe.progress(trunks, settings.online.trunks, "augmentation trunks", done=done):
        distribution = distribution.at(trunk.theta)
        copies += list(copy_rows(distribution, trunk, settings))
        shares += list(share_rows(distribution, trunk.index))
        observe.metrics(trunk_metrics(distribution, trunk, settings), step=trunk.index)
    files.write_json(paths.FOUND_AUGMENTATION, policy_of(distribution).to_json())
    files.write_csv(paths.AUGMENTATION_TRUNKS, copies)
    files.write_csv(paths.DISTRIBUTION, shares)
    for file in (paths.FOUND_AUGMENTATION, paths.AUGMENTATION_TRUNKS, paths.DISTRIBUTION):
        observe.file(file)


def write_identity(settings: Augmentation) -> None:
    """Write the policy that changes nothing, of a search that does not run."""
    elements = first_distribution(settings).elements
    joint = np.zeros((len(elements), len(elements)))
    identity = [element.operation for element in elements].index("Identity")
    joint[identity, identity] = 1.0
    files.write_json(paths.FOUND_AUGMENTATION, Policy(elements, joint).to_json())
    files.write_csv(paths.AUGMENTATION_TRUNKS, [])
    files.write_csv(paths.DISTRIBUTION, [])


def copy_rows(distribution: FactoredPairs, trunk: Trunk[Pairs], settings: Augmentation) -> Iterator[dict[str, object]]:
    names = reward_names(distribution, trunk, settings)
    for copy, sample in enumerate(trunk.samples):
        yield {
            "trunk": trunk.index,
            "copy": names[copy],
            "sample": format_pairs(distribution.elements, sample),
            "reward": trunk.rewards[copy],
            "score": trunk.scores[copy],
            "fault": trunk.faults[copy],
            "best": copy == trunk.best,
            "broadcast_score": trunk.score,
        }


def share_rows(distribution: FactoredPairs, trunk: int) -> Iterator[dict[str, object]]:
    for position, shares in policy_of(distribution).element_shares().items():
        for element, share in zip(distribution.elements, shares.tolist(), strict=True):
            yield {"trunk": trunk, "position": position, "element": str(element), "probability": share}


def trunk_metrics(distribution: FactoredPairs, trunk: Trunk[Pairs], settings: Augmentation) -> dict[str, float]:
    """Return metrics of the model, the policy, the rewards and the shares after a trunk.

    MLflow groups charts by the part of the name before the last /.
    """
    policy = policy_of(distribution)
    shares = policy.operation_shares()
    named = zip(reward_names(distribution, trunk, settings), trunk.rewards, strict=True)
    return {
        "augmentation/score": trunk.score,
        "augmentation/strength": PLACES * (1 - shares.get("Identity", 0.0)),
        "augmentation/entropy_bits": policy.entropy(),
        "augmentation/reward/best": trunk.rewards[trunk.best],
        "augmentation/reward/mean": float(np.nanmean(trunk.rewards)),
        **{f"augmentation/share/{operation}": share for operation, share in shares.items()},
        **{f"augmentation/rewards/{name}": reward for name, reward in named},
    }


def reward_names(distribution: FactoredPairs, trunk: Trunk[Pairs], settings: Augmentation) -> list[str]:
    """Name what each reward belongs to: an element if each is tried alone beside Identity, else a copy."""
    if settings.online.reward == "alignment":
        return [str(element) for element in distribution.elements]
    return [f"copy_{copy}" for copy in range(len(trunk.samples))]
