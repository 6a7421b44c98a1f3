"""The training loop that every search and the final training share.

w   parameters and buffers of a network          b  images in a batch
m   momentum of each parameter (SGD, Nesterov)   k  classes
A `State` holds both, so that a search can copy, average and hand on a model in mid-training.

Training runs on the network's device. Images and labels are moved there batch by batch, unless they are there already,
and the returned state stays there. Random numbers are drawn on their generator's device, by convention the CPU, so that
every device sees the same batches and the same augmentation.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from components.settings.recipe import Recipe
from components.training.inference import device_of

State = dict[str, Tensor]
"""`model.<name>`: parameters and buffers; `momentum.<name>`: SGD's momentum; all on the network's device."""

Augment = Callable[[UInt8[Tensor, "b c h w"], torch.Generator], UInt8[Tensor, "b c h w"]]
Criterion = Callable[[Float[Tensor, "b d"], Float[Tensor, "k d"], Int64[Tensor, " b"]], Float[Tensor, ""]]
"""(features, classifier weight without bias, labels) -> mean loss; the logits are features @ weight.T."""


class Diverged(FloatingPointError):
    """Raised when the loss or a gradient is no longer finite."""


class Classifier(Protocol):
    """The interface of a network: features of uint8 images, and a linear classifier without bias on top of them."""

    classifier: nn.Linear

    def features(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]: ...


def initial_state(network: nn.Module) -> State:
    """Return the network's present weights and buffers, with zero momentum."""
    state = {f"model.{name}": value.detach().clone() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state[f"momentum.{name}"] = torch.zeros_like(parameter.detach())
    return state


def load_state(network: nn.Module, state: State) -> None:
    """Copy the state's parameters and buffers into the network."""
    prefix = "model."
    network.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def cross_entropy(label_smoothing: float = 0.0) -> Criterion:
    """Return the criterion that is the mean cross-entropy of the logits features @ weight.T."""

    def loss(
        features: Float[Tensor, "b d"], weight: Float[Tensor, "k d"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        return F.cross_entropy(features @ weight.T, labels, label_smoothing=label_smoothing)

    return loss


def rising_steps(recipe: Recipe, steps: int) -> int:
    """Return the number of steps, of so many, in which the learning rate rises."""
    return max(1, round(recipe.warmup * steps))


def schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the global step 0..steps-1: linear warm-up, then half a cosine to 0."""
    warm = rising_steps(recipe, steps)

    def rate(step: int) -> float:
        if step < warm:
            return recipe.learning_rate * (step + 1) / warm
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return rate


def epoch_batches(count: int, batch_size: int, rng: np.random.Generator) -> list[Int64[Tensor, " b"]]:
    """Return one shuffled epoch as batches of indices; a partial last batch is dropped unless it is the only one."""
    order = torch.from_numpy(rng.permutation(count))
    whole = max(1, count // batch_size)
    return list(order[: whole * batch_size].split(batch_size))


def batches_of(count: int, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[Int64[Tensor, " b"]]:
    """Yield `steps` batches of indices, from as many shuffled epochs as needed."""
    left = steps
    while left > 0:
        for batch in epoch_batches(count, batch_size, rng)[:left]:
            yield batch
            left -= 1


def train_steps(
    network: nn.Module,
    state: State,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    *,
    batches: Iterable[Int64[Tensor, " b"]],
    rate: Callable[[int], float],
    first_step: int,
    augment: Augment,
    criterion: Criterion,
    beginning: Criterion | None = None,
    rising: int = 0,
    recipe: Recipe,
    rng: torch.Generator,
    after_step: Callable[[nn.Module, float], None] | None = None,
) -> State:
    """Train from `state` on the batches and return the new state; `network` (a `Classifier`) is scratch space.

    Images and labels must be on one device, which may differ from the network's. Weight decay applies to convolution
    and linear weights only. `beginning` is the criterion before the global step `rising`. `after_step` gets the network
    and the batch's loss. Raises `Diverged` when the loss is not finite.
    """
    load_state(network, state)
    optimiser = make_optimiser(network, state, recipe)
    network.train()
    model, device = cast(Classifier, network), device_of(network)
    for step, batch in enumerate(batches, start=first_step):
        rows = batch.to(images.device)
        features = model.features(augment(images[rows].to(device), rng))
        chosen = beginning if beginning is not None and step < rising else criterion
        loss = chosen(features, model.classifier.weight, labels[rows].to(device))
        take_step(optimiser, loss, rate(step), f"the training loss is {loss.item()} at step {step}")
        if after_step is not None:
            after_step(network, loss.item())
    return collect_state(network, optimiser, state)


def take_step(optimiser: torch.optim.Optimizer, loss: Float[Tensor, ""], rate: float, complaint: str) -> None:
    """Step along the gradient of the loss; parameters without one keep still, their momentum and decay included.

    Raises `Diverged` with the complaint when the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise Diverged(complaint)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


def make_optimiser(network: nn.Module, state: State, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum that goes on with the state's momentum buffers."""
    parameters = list(network.named_parameters())
    decayed = [p for _, p in parameters if p.ndim > 1]
    free = [p for _, p in parameters if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    if recipe.momentum > 0:
        for name, parameter in parameters:
            # in the parameter's memory layout, wherever the state came from: another layout may add in another order
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(state[f"momentum.{name}"])
            optimiser.state[parameter]["momentum_buffer"] = momentum
    return optimiser


def collect_state(network: nn.Module, optimiser: torch.optim.SGD, before: State) -> State:
    """Return the state after training, cloned, so that the network may be used again."""
    state = {f"model.{name}": value.detach().clone() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        momentum = optimiser.state[parameter].get("momentum_buffer")
        kept = before[f"momentum.{name}"].to(parameter.device)
        state[f"momentum.{name}"] = kept if momentum is None else momentum.clone()
    return state


def steps_in(images: int, recipe: Recipe) -> int:
    """Return the number of whole batches in so many images, at least one."""
    return max(1, images // recipe.batch_size)
