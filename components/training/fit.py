"""The final training, epoch by epoch, with the moving average of the weights that ships."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from components.settings.train import Train
from components.streams import stream, torch_stream
from components.training.averages import moving_average
from components.training.inference import device_of
from components.training.loop import (
    Augment,
    Criterion,
    State,
    batches_of,
    epoch_batches,
    initial_state,
    rising_steps,
    schedule,
    train_steps,
)
from components.training.progressive import side_at


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The result of one pass over the training images."""

    index: int
    loss: float
    """Mean training loss of the epoch's batches, each by the criterion that it trained under."""
    learning_rate: float
    """Learning rate of the epoch's last step."""
    state: State = field(repr=False, compare=False)
    """The weights that would ship now: the moving average (with decay 0, the weights themselves)."""
    trained: State = field(repr=False, compare=False)
    """The state that the next epoch goes on from."""
    draws: UInt8[Tensor, " s"] = field(repr=False, compare=False)
    """State of the generator that augmentation draws from."""


def fit(
    network: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    *,
    settings: Train,
    augment: Augment,
    criterion: Criterion,
    beginning: Criterion | None = None,
    seed: int,
    begun: State | None = None,
    after: Epoch | None = None,
) -> Iterator[Epoch]:
    """Train from the network's present weights for `settings.epochs` epochs; the last epoch's state is the model.

    `beginning`: the criterion while the learning rate rises, if it differs. `begun`: weights and momentum of a training
    at the peak rate, from which this one goes on without a warm-up. `after`: a recorded epoch of the same training,
    from which it goes on and ends with the same bytes.
    """
    recipe = settings.recipe
    state = after.trained if after else initial_state(network) if begun is None else begun
    shipped = after.state if after else state
    average = {key: value.clone().to(device_of(network)) for key, value in shipped.items()}
    per_epoch = max(1, len(images) // recipe.batch_size)
    epochs = settings.epochs
    assert epochs is not None, "the caller says how many epochs are trained where the settings leave it open"
    steps = epochs * per_epoch
    rising = rising_steps(recipe, steps) if begun is None else 0
    rate = schedule(recipe, steps, rising)
    side = partial(side_at, steps=steps, side=images.shape[-1]) if recipe.progressive else None
    order, draws = stream(seed, "order of training"), torch_stream(seed, "augmentation of training")
    first = after.index + 1 if after else 0
    if after:
        deque(batches_of(len(images), recipe.batch_size, first * per_epoch, order), maxlen=0)  # advance the generator
        draws.set_state(after.draws)
    for index in range(first, epochs):
        losses: list[float] = []
        first_step = index * per_epoch

        def after_step(
            trained: nn.Module, loss: float, losses: list[float] = losses, first_step: int = first_step
        ) -> None:
            losses.append(loss)
            if settings.ema:
                moving_average(average, trained, settings.ema, first_step + len(losses) - 1)

        state = train_steps(
            network,
            state,
            images,
            labels,
            batches=epoch_batches(len(images), recipe.batch_size, order),
            rate=rate,
            first_step=first_step,
            augment=augment,
            criterion=criterion,
            beginning=beginning,
            rising=rising,
            side=side,
            recipe=recipe,
            rng=draws,
            after_step=after_step,
        )
        if not settings.ema:
            average.update((key, value) for key, value in state.items() if key.startswith("model."))
        yield Epoch(
            index=index,
            loss=float(np.mean(losses)),
            learning_rate=rate((index + 1) * per_epoch - 1),
            state={key: value.clone() for key, value in average.items()},
            trained=state,
            draws=draws.get_state(),
        )
