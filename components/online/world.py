"""The functions that the engine needs, for any image classifier: training, scores and gradients of a network.

A subclass says in `treatment` how a sample changes training; everything else is the same for all searches.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from components.data.store import Split
from components.online.controllers import Distribution
from components.online.engine import Play, Trunk, align_gradients, race_copies, search
from components.online.rewards import TargetGradient
from components.settings.online import Online
from components.settings.recipe import Recipe
from components.settings.require import require
from components.streams import stream, torch_rng
from components.training.crop_flip import base_augment, compose
from components.training.devices import CPU, Devices, Make, network_on, one_thread
from components.training.inference import device_of, predict, split_tensors
from components.training.loop import (
    Augment,
    Classifier,
    Criterion,
    State,
    batches_of,
    cross_entropy,
    initial_state,
    load_state,
    mixed_precision,
    schedule,
    steps_in,
    train_steps,
)
from components.training.metrics import METRICS
from components.training.parallel import Parallel, sequential

S = TypeVar("S")
SCORE_BATCH = 64
"""Images scored at a time: on one thread, 64 (of 32 pixels) stay in the cache and are three times as fast as 512."""


def unchanged(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
    """Return the images as they are; a module-level function, so that it can be pickled for workers."""
    return images


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How a copy trains: augmentation, loss and recipe."""

    augment: Augment
    """The whole augmentation, crop and flip included."""
    criterion: Criterion
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class World(ABC):
    """The network, data and recipe that samples are tried with; it is pickled whole for workers."""

    make: Make
    train: Split
    val: Split
    augment: Augment = unchanged
    """The augmentation that an earlier search found; the recipe's crop and flip come before it."""
    recipe: Recipe
    seed: int
    devices: Devices = CPU

    @property
    @abstractmethod
    def online(self) -> Online:
        """Settings of the online engine."""

    @abstractmethod
    def treatment(self, sample: Any, state: State, trunk: int, copy: int) -> Treatment:
        """Return how a copy that starts the trunk from the state trains under the sample."""

    def play(self) -> Play:
        """Return the function that runs a trunk of the settings' reward; raises ValueError if the world has none."""
        reward = self.online.reward
        require(reward != "linear_probe", "reward linear_probe is the loss search's; use alignment or leave_one_out")
        if reward == "alignment":
            return partial(
                align_gradients,
                train=self.train_copy,
                target_gradient=self.target_gradient,
                training_gradient=self.training_gradient,
            )
        return partial(race_copies, train=self.train_copy, score=self.score)

    def plain(self) -> Treatment:
        """Return the treatment of plain training, without what is searched."""
        augment = compose(base_augment(self.recipe), self.augment)
        return Treatment(augment=augment, criterion=cross_entropy(self.recipe.label_smoothing), recipe=self.recipe)

    def search_from(
        self,
        distribution: Distribution[S],
        parallel: Parallel = sequential,
        after: Trunk[S] | None = None,
    ) -> Iterator[Trunk[S]]:
        """Train the network while learning the distribution; with `after`, a recorded trunk, go on from there."""
        yield from search(
            distribution,
            self.warm_up() if after is None else initial_state(network_on(self.devices, self.make)),
            play=self.play(),
            score=self.score,
            settings=self.online,
            seed=self.seed,
            parallel=parallel,
            after=after,
        )

    def warm_up(self) -> State:
        """Return the first trunk's starting state, after plain warm-up training (`head_start`) on one thread."""
        rng, plain = stream(self.seed, "warm-up training"), self.plain()
        images, labels = split_tensors(self.train)
        network, steps = network_on(self.devices, self.make), warm_up_steps(self.online, self.recipe)
        with one_thread():
            return train_steps(
                network,
                initial_state(network),
                images,
                labels,
                batches=batches_of(len(labels), self.recipe.batch_size, steps, rng),
                rate=whole_schedule(self.online, self.recipe),
                first_step=0,
                augment=plain.augment,
                criterion=plain.criterion,
                recipe=self.recipe,
                rng=torch_rng(rng),
            )

    def train_copy(self, state: State, sample: Any, trunk: int, copy: int) -> State:
        """Train one copy for one trunk under the sample; None stands for plain training. Raises `Diverged`."""
        treatment = self.plain() if sample is None else self.treatment(sample, state, trunk, copy)
        return train_trunk(
            network_on(self.devices, self.make, copy),
            state,
            self.train,
            treatment,
            settings=self.online,
            seed=self.seed,
            trunk=trunk,
            copy=copy,
        )

    def score(self, state: State) -> float:
        """Return the metric of the plain logits on val, in evaluation mode."""
        return score_state(network_on(self.devices, self.make), state, self.val, self.online)

    def target_gradient(self, state: State, trunk: int) -> TargetGradient:
        """Return, for each half of val, its log-likelihood's gradient minus that of as many augmented training images.

        No `training_gradient` of the trunk uses these training images, unless there are too few: noise common to both
        would look like alignment. Raises ValueError for fewer than two images of val.
        """
        network, criterion = network_on(self.devices, self.make), cross_entropy()
        gradient = partial(negative_gradient, recipe=self.recipe)
        images, labels = score_tensors(self.val, self.online)
        require(len(labels) > 1, "val has one image; reward alignment compares two halves of val, so raise data.val")
        order, rng = self.order(trunk)
        train_images, train_labels = split_tensors(self.train.at(order[::-1][: len(labels)]))
        augmented = self.plain().augment(train_images.to(device_of(network)), torch_rng(rng))
        halves, val_loss, train_loss = [], 0.0, 0.0
        for half in (slice(0, None, 2), slice(1, None, 2)):
            target, on_val = gradient(network, state, images[half], labels[half], criterion)
            training, on_train = gradient(network, state, augmented[half], train_labels[half], criterion)
            halves.append({name: value - training[name] for name, value in target.items()})
            val_loss, train_loss = val_loss + on_val, train_loss + on_train
        return TargetGradient(halves=(halves[0], halves[1]), train_loss=train_loss / 2, val_loss=val_loss / 2)

    def training_gradient(self, state: State, sample: Any, trunk: int, copy: int) -> State:
        """Return minus the gradient of the loss under the sample, on `probe_images` training images of the trunk."""
        treatment = self.plain() if sample is None else self.treatment(sample, state, trunk, copy)
        order, rng = self.order(trunk)
        images, labels = split_tensors(self.train.at(order[: self.online.probe_images]))
        network = network_on(self.devices, self.make, copy)
        moved = treatment.augment(images.to(device_of(network)), torch_rng(rng))
        gradient, _ = negative_gradient(network, state, moved, labels, treatment.criterion, treatment.recipe)
        return gradient

    def order(self, trunk: int) -> tuple[Int64[np.ndarray, " n"], np.random.Generator]:
        """Return the trunk's order of training images for gradients, and its generator, to draw augmentation from."""
        rng = stream(self.seed, "probe images", trunk)
        return rng.permutation(len(self.train.labels)), rng


def train_trunk(
    network: nn.Module,
    state: State,
    split: Split,
    treatment: Treatment,
    *,
    settings: Online,
    seed: int,
    trunk: int,
    copy: int,
) -> State:
    """Train one copy for one trunk, on one thread; the learning rate follows the step within the whole search.

    When the best copy is broadcast, all copies see the same batches (common random numbers), so that rewards differ by
    the sample alone. When copies are averaged, each has batches of its own, so that their work adds up. All images of
    the trunk are moved to the network's device at once. Raises `Diverged`.
    """
    recipe = treatment.recipe
    rng = stream(seed, "copy training", trunk, 0 if settings.broadcast == "best" else copy)
    steps = steps_in(settings.images, recipe)
    batches = list(batches_of(len(split.labels), recipe.batch_size, steps, rng))
    rows = torch.cat(batches).numpy()  # only these are read from the memory map
    chosen = split.at(rows)
    images, labels = (part.to(device_of(network)) for part in split_tensors(chosen))
    with one_thread():
        return train_steps(
            network,
            state,
            images,
            labels,
            batches=torch.arange(len(rows)).split(len(batches[0])),
            rate=whole_schedule(settings, recipe),
            first_step=warm_up_steps(settings, recipe) + steps * trunk,
            augment=treatment.augment,
            criterion=treatment.criterion,
            recipe=recipe,
            rng=torch_rng(rng),
        )


def warm_up_steps(settings: Online, recipe: Recipe) -> int:
    """Return the number of steps of the warm-up training before the first trunk."""
    return settings.head_start // recipe.batch_size


def whole_schedule(settings: Online, recipe: Recipe) -> Callable[[int], float]:
    """Return the learning-rate schedule over the warm-up training and all trunks."""
    return schedule(recipe, warm_up_steps(settings, recipe) + steps_in(settings.images, recipe) * settings.trunks)


def score_state(network: nn.Module, state: State, split: Split, settings: Online) -> float:
    """Return the metric of the model on val (its first `score_images` images), in evaluation mode, on one thread."""
    images, labels = score_tensors(split, settings)
    load_state(network, state)
    with one_thread():
        return METRICS[settings.metric](predict(network, images, batch_size=SCORE_BATCH), labels)


def negative_gradient(
    network: nn.Module,
    state: State,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    criterion: Criterion,
    recipe: Recipe,
) -> tuple[State, float]:
    """Return minus the gradient of the mean loss by every parameter (`model.<name>`), and the loss.

    The network is in evaluation mode, on one thread, and computes in the recipe's type.
    """
    load_state(network, state)
    network.eval()
    names, parameters = zip(*network.named_parameters(), strict=True)
    device, classifier = device_of(network), cast(Classifier, network)
    total = {f"model.{name}": torch.zeros_like(parameter) for name, parameter in zip(names, parameters, strict=True)}
    mean = 0.0
    with one_thread():
        for batch, of_batch in zip(images.split(SCORE_BATCH), labels.split(SCORE_BATCH), strict=True):
            with mixed_precision(device, recipe):
                features = classifier.features(batch.to(device))
            loss = criterion(features.float(), classifier.classifier.weight, of_batch.to(device))
            share = len(of_batch) / len(labels)
            mean += share * loss.item()
            for name, gradient in zip(total, torch.autograd.grad(-share * loss, parameters), strict=True):
                total[name] += gradient
    return total, mean


def score_tensors(split: Split, settings: Online) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Return images and labels that rewards are measured on."""
    return split_tensors(split.at(slice(settings.score_images)))
