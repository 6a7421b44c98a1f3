"""The short trainings of the race: each candidate on a worker of its own, all on the same batches.

Training is at the recipe's peak rate, after a warm-up in the first rung of the first factor, so that the winner's
final training can go on from there (`components.training.fit`, `begun`). At that rate single weights are noisy: val is
answered by their moving average.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.data.store import Split
from components.race.halving import FACTORS, Heat, Setup
from components.settings.race import Race
from components.settings.recipe import Recipe
from components.streams import stream, torch_rng
from components.training.averages import moving_average
from components.training.devices import CPU, Devices, one_thread
from components.training.inference import predict, split_tensors
from components.training.loop import (
    Augment,
    Criterion,
    Diverged,
    batches_of,
    initial_state,
    load_state,
    steps_in,
    train_steps,
)
from components.training.parallel import Parallel, WorkerDied
from components.training.progressive import shrink, sides

SMOOTHING = 0.98
"""Decay of the moving average per step (ours)."""
SCORE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Everything that the candidates train with; it is pickled whole for workers."""

    make: Callable[[str], nn.Module]
    """Builds a network from an architecture's text, with the same first weights every time."""
    augments: Mapping[str, Augment]
    """Each choice of augmentation, crop and flip included."""
    criteria: Mapping[str, Criterion]
    costs: Mapping[str, float]
    """Cost of a training image of each network, as a multiple of the default network's."""
    train: Split
    val: Split
    recipe: Recipe
    settings: Race
    seed: int
    devices: Devices = CPU

    def run(
        self, parallel: Parallel, candidates: Mapping[Setup, Heat | None], factor: str, rung: int
    ) -> dict[Setup, Heat]:
        """Train every candidate for a rung. A candidate that diverges, or whose worker dies twice, has a fault."""
        calls = [(setup, heat, factor, rung, place) for place, (setup, heat) in enumerate(candidates.items())]
        heats = parallel(self.train_candidate, calls)
        return {setup: heat_of(heat) for setup, heat in zip(candidates, heats, strict=True)}

    def train_candidate(self, setup: Setup, heat: Heat | None, factor: str, rung: int, place: int) -> Heat:
        """Train one candidate for one rung on one thread, from the heat or, without one, from first weights."""
        network = self.make(setup.architecture).to(self.devices[place % len(self.devices)])
        rng = stream(self.seed, "race", factor, rung)
        steps = steps_in(round(self.settings.images * 2**rung / self.costs[setup.architecture]), self.recipe)
        batches = list(batches_of(len(self.train.labels), self.recipe.batch_size, steps, rng))
        rows = torch.cat(batches)
        images, labels = split_tensors(self.train.at(rows.numpy()))  # only these are read from the memory map
        state = initial_state(network) if heat is None else heat.state
        average = {key: value.clone() for key, value in state.items()}
        begins = factor == FACTORS[0] and rung == 0
        seen = 0 if heat is None else heat.images
        done = 0

        def after_step(trained: nn.Module, loss: float) -> None:
            nonlocal done
            moving_average(average, trained, SMOOTHING, done)
            done += 1

        with one_thread():
            try:
                state = train_steps(
                    network,
                    state,
                    images,
                    labels,
                    batches=torch.arange(len(rows)).split(len(batches[0])),
                    rate=lambda step: self.recipe.learning_rate * ((step + 1) / steps if begins else 1.0),
                    first_step=0,
                    augment=self.augments[setup.augmentation],
                    criterion=self.criteria[setup.loss],
                    side=lambda step: self.side,
                    recipe=self.recipe,
                    rng=torch_rng(rng),
                    after_step=after_step,
                )
            except Diverged as fault:
                return Heat(state={}, logits=torch.empty(0), images=seen + len(rows), fault=str(fault))
            load_state(network, average)
            return Heat(state=state, logits=self.answer(network), images=seen + len(rows))

    @property
    def side(self) -> int:
        """The side of the images: that of the first quarter of the final training, which goes on from here."""
        whole = int(self.val.images.shape[1])
        return sides(whole)[0] if self.recipe.progressive else whole

    def answer(self, network: nn.Module) -> Tensor:
        """Return the logits on val."""
        images, _ = split_tensors(self.val)
        logits = [predict(network, shrink(batch, self.side)) for batch in images.split(SCORE_BATCH)]
        return torch.cat(logits).cpu()


def heat_of(result: Heat | WorkerDied) -> Heat:
    """Return the heat; that of a worker that died has the reason as its fault."""
    if isinstance(result, WorkerDied):
        return Heat(state={}, logits=torch.empty(0), images=0, fault=result.reason)
    return result


def race_images(choices: Sequence[int], settings: Race) -> int:
    """Return the number of images that the race trains on in all, from the number of choices of each factor.

    It is an upper estimate: after each rung the better half of the choices stays, and one more where the best of a kind
    is not among them.
    """
    total = 0
    for count in choices:
        left = count
        for rung in range(settings.rungs):
            total += left * settings.images * 2**rung if count > 1 or rung == 0 else 0
            left = min(left, -(-left // 2) + 1)
    return total
