"""Measurement of how fast networks train on this machine: every part forward and backward, and whole steps.

A part is timed alone, on one CPU thread; on a GPU all parts are taken to be faster by as much as whole steps are. The
overhead is what a whole step of the default network takes beyond its parts: augmentation, loss, optimiser. Muon's share
of it depends on a network's weights, which is not modelled.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from components.architecture.network import build_network
from components.architecture.part_models import part_modules
from components.architecture.parts import EMPTY, parts
from components.architecture.space import Space, default_architecture
from components.architecture.training_cost import TrainingCosts
from components.settings.recipe import Recipe
from components.streams import stream, torch_stream
from components.training.crop_flip import base_augment
from components.training.devices import CPU, one_thread
from components.training.loop import cross_entropy, initial_state, mixed_precision, train_steps
from components.training.progressive import sides

REPEATS = 3
"""Number of timed runs, of which the fastest counts (ours)."""


def measure_training(space: Space, recipe: Recipe, threads: int, device: torch.device = CPU[0]) -> TrainingCosts:
    """Time every part of the space's networks, and whole steps of the default network, on this machine.

    A step has the recipe's batch, since what the optimiser does is shared by its images.
    """
    layers = tuple(str(layer) for layer in space.layers)
    modules, examples = part_modules(space)
    with one_thread():
        seconds = {name: time_part(module, examples[name], recipe) for name, module in modules.items() if name != EMPTY}
        steps = [time_step(space, recipe, side) for side in sides(space.size)]
        alone = time_step(space, recipe, space.size, time.perf_counter)
    default = default_architecture(space)
    known = sum(seconds[name] for name in parts(layers, default))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    together = time_step(space, recipe, space.size, time.perf_counter) if threads > 1 else alone
    torch.set_num_threads(before)
    scale = 1.0
    if device.type != "cpu":
        steps = [time_step(space, recipe, side, device=device) for side in sides(space.size)]
        scale, together = steps[-1] / alone, alone
    return TrainingCosts(
        layers=layers,
        parts={name: scale * value for name, value in seconds.items()},
        overhead=max(0.0, steps[-1] - scale * known),
        small=steps[0] / steps[-1] if recipe.progressive else 1.0,
        mean=sum(steps) / len(steps) / steps[-1] if recipe.progressive else 1.0,
        speedup=max(1.0, alone / together),
    )


def time_part(module: nn.Module, example: Tensor, recipe: Recipe) -> float:
    """Return the CPU seconds an image of a part, forward and backward, in a batch of the recipe."""
    batch = recipe.batch_size
    x = example[:1].expand(batch, *example.shape[1:])
    if x.is_floating_point():
        x = x.to(getattr(torch, recipe.dtype))  # as the part before would give it
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()
        x.requires_grad_()
    module = module.to(memory_format=torch.channels_last)

    def run() -> None:
        with mixed_precision(CPU[0], recipe):
            outputs = module(x)
        (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()

    return fastest(run) / batch


def time_step(
    space: Space,
    recipe: Recipe,
    side: int,
    clock: Callable[[], float] | None = None,
    device: torch.device = CPU[0],
) -> float:
    """Return the seconds an image of a training step of the default network: of the CPU, or by the wall clock where
    another device computes, for which a step waits."""
    clock = clock or (time.process_time if device.type == "cpu" else time.perf_counter)
    batch, blank = recipe.batch_size, (0.5,) * space.channels
    network = build_network(space, default_architecture(space), blank, blank).to(device)
    shape = (batch, space.channels, space.size, space.size)
    images = torch.from_numpy(stream(0, "images to time").integers(0, 256, shape, dtype="uint8"))
    labels = torch.arange(batch) % space.classes
    state = initial_state(network)

    def run() -> None:
        train_steps(
            network,
            state,
            images.contiguous(memory_format=torch.channels_last),
            labels,
            batches=[torch.arange(batch)] * 2,
            rate=lambda step: 0.0,
            first_step=0,
            augment=base_augment(recipe),
            criterion=cross_entropy(),
            side=lambda step: side,
            recipe=recipe,
            rng=torch_stream(0, "augmentation to time"),
        )

    return fastest(run, clock) / batch / 2


def fastest(run: Callable[[], None], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds of the fastest of some runs, after one that is not timed."""
    run()
    seconds = []
    for _ in range(REPEATS):
        began = clock()
        run()
        seconds.append(clock() - began)
    return min(seconds)
