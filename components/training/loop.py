"""The training loop that every search and the final training share.

w   parameters and buffers of a network          b  images in a batch
m   momentum of each parameter                   k  classes
A `State` holds both, so that a search can copy, average and hand on a model in mid-training.

Training runs on the network's device. Images and labels are moved there batch by batch, unless they are there already,
and the returned state stays there. Random numbers are drawn on their generator's device, by convention the CPU, so that
every device sees the same batches and the same augmentation.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from components.settings.recipe import Recipe
from components.training.inference import device_of
from components.training.muon import Muon, muon_weights
from components.training.progressive import shrink

State = dict[str, Tensor]
"""`model.<name>`: parameters and buffers; `momentum.<name>`: the optimiser's; all on the network's device."""

Optimisers = tuple[torch.optim.Optimizer, ...]
"""What steps together: SGD, and Muon for convolutions if the recipe says so. `share` in their groups is the rate as a
multiple of the schedule's."""

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


def schedule(recipe: Recipe, steps: int, warm: int | None = None) -> Callable[[int], float]:
    """Return the learning rate as a function of the global step 0..steps-1: linear warm-up, then half a cosine to 0.

    `warm`: the number of steps of the warm-up, if it is not the recipe's share; 0 for a training that has begun.
    """
    warm = rising_steps(recipe, steps) if warm is None else warm

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
    side: Callable[[int], int] | None = None,
    recipe: Recipe,
    rng: torch.Generator,
    after_step: Callable[[nn.Module, float], None] | None = None,
) -> State:
    """Train from `state` on the batches and return the new state; `network` (a `Classifier`) is scratch space.

    Images and labels must be on one device, which may differ from the network's. Weight decay applies to convolution
    and linear weights only. `beginning` is the criterion before the global step `rising`. `side` gives the side that
    images are reduced to in a global step, after their augmentation. `after_step` gets the network and the batch's
    loss. Raises `Diverged` when the loss is not finite.
    """
    load_state(network, state)
    optimisers = make_optimisers(network, state, recipe)
    network.train()
    model, device = cast(Classifier, network), device_of(network)
    for step, batch in enumerate(batches, start=first_step):
        rows = batch.to(images.device)
        augmented = augment(images[rows].to(device), rng)
        with mixed_precision(device, recipe):
            features = model.features(augmented if side is None else shrink(augmented, side(step)))
        chosen = beginning if beginning is not None and step < rising else criterion
        loss = chosen(features.float(), model.classifier.weight, labels[rows].to(device))
        take_step(optimisers, loss, rate(step), f"the training loss is {loss.item()} at step {step}")
        if after_step is not None:
            after_step(network, loss.item())
    return collect_state(network, optimisers, state)


def mixed_precision(device: torch.device, recipe: Recipe) -> AbstractContextManager[object]:
    """Return the context in which a network's layers compute as the recipe says; features are to be made float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext()


def take_step(optimisers: Optimisers, loss: Float[Tensor, ""], rate: float, complaint: str) -> None:
    """Step along the gradient of the loss; parameters without one keep still, their momentum and decay included.

    Raises `Diverged` with the complaint when the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise Diverged(complaint)
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        optimiser.step()


def make_optimisers(network: nn.Module, state: State, recipe: Recipe) -> Optimisers:
    """Return SGD with Nesterov momentum, and Muon for convolutions if the recipe has a rate for it; both go on with the
    state's momentum."""
    parameters = list(network.named_parameters())
    convolutions = muon_weights(network) if recipe.muon else []
    rest = [parameter for parameter in network.parameters() if all(parameter is not other for other in convolutions)]
    decayed, free = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
    sgd = torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay, "share": 1.0},
            {"params": free, "weight_decay": 0.0, "share": 1.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    optimisers: Optimisers = (sgd,)
    if convolutions:
        muon = Muon(convolutions, recipe.muon)
        muon.param_groups[0]["share"] = recipe.muon / recipe.learning_rate
        optimisers = (sgd, muon)
    own = {id(parameter) for parameter in convolutions}
    for name, parameter in parameters:
        if recipe.momentum > 0 or id(parameter) in own:
            # in the parameter's memory layout, wherever the state came from: another layout may add in another order
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(state[f"momentum.{name}"])
            optimisers[-1 if id(parameter) in own else 0].state[parameter]["momentum_buffer"] = momentum
    return optimisers


def collect_state(network: nn.Module, optimisers: Optimisers, before: State) -> State:
    """Return the state after training, cloned, so that the network may be used again."""
    state = {f"model.{name}": value.detach().clone() for name, value in network.state_dict().items()}
    buffers = {p: own.get("momentum_buffer") for one in optimisers for p, own in one.state.items()}
    for name, parameter in network.named_parameters():
        momentum = buffers.get(parameter)
        kept = before[f"momentum.{name}"].to(parameter.device)
        state[f"momentum.{name}"] = kept if momentum is None else momentum.clone()
    return state


def steps_in(images: int, recipe: Recipe) -> int:
    """Return the number of whole batches in so many images, at least one."""
    return max(1, images // recipe.batch_size)
