"""Costs of a network besides latency, counted from its operators: parameters, FLOPs, activation memory, file size.

    part  the stem, the block of a layer, or the head

Everything is counted for one image, by running the part on PyTorch's `meta` device, where operators have shapes and no
numbers, so that a new family of blocks is counted as soon as it can be built. Parameters, FLOPs and file bytes add up
over the parts of a network. Memory does not: only the one activation between them outlives a part, so that a network's
peak is the highest of its parts' peaks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from components.architecture.network import Stem, build_block
from components.architecture.part_modules import Head, RawStem
from components.architecture.space import (
    Architecture,
    Layer,
    Space,
    after_stride,
    candidates,
    format_architecture,
)
from components.settings.architecture import Architecture as ArchitectureSettings
from components.settings.require import require

NODE_BYTES, ARRAY_BYTES = 90, 145
"""Bytes in the file for an operator, and for an array of weights besides its numbers: names, shapes and attributes
(counted in files of our exporter)."""
FILE_BYTES = 900
"""Bytes of the rest of the file: inputs, outputs, opset, and metadata without the architecture and class names."""
CLASS_BYTES = 10
"""Approximate bytes of a class name in the metadata."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of a part or of a network."""

    parameters: int
    """Number of trained parameters, those of batch norm included."""
    flops: int
    """Twice the multiply-adds of convolutions and matrix products."""
    memory_bytes: int
    """Largest number of bytes of activations that are needed at one moment. A convolution with its batch norm is one
    operator. An elementwise operator overwrites an input that is not read later; all others write into new memory.
    Weights and an operator's scratch space are not counted."""
    file_bytes: int
    """Estimated size of the float32 ONNX file; batch norm is folded into the convolutions."""


def costs_of(space: Space, architecture: Architecture) -> Costs:
    """Return the costs of a network."""
    blocks = [block_costs(name, layer) for name, layer in zip(architecture, space.layers, strict=True)]
    return add_costs([ends_costs(space_ends(space)), *blocks])


def add_costs(parts: Iterable[Costs]) -> Costs:
    """Return the costs of parts that run one after the other."""
    every = list(parts)
    return Costs(
        parameters=sum(p.parameters for p in every),
        flops=sum(p.flops for p in every),
        memory_bytes=max(p.memory_bytes for p in every),
        file_bytes=sum(p.file_bytes for p in every),
    )


@cache
def block_costs(name: str, layer: Layer) -> Costs:
    """Return the costs of a block in a layer; its name and a separator are in the file's metadata."""
    with torch.device("meta"):
        counted = count(build_block(name, layer), torch.empty(1, layer.inputs, layer.size, layer.size))
    return replace(counted, file_bytes=counted.file_bytes + len(name) + 1)


Ends = tuple[int, int, int, int, int, Layer]
"""The numbers that shape stem and head: image side, image channels, stem, its stride, classes, last layer."""


def space_ends(space: Space) -> Ends:
    return space.size, space.channels, space.stem, space.stem_stride, space.classes, space.layers[-1]


@cache
def ends_costs(ends: Ends) -> Costs:
    """Return the costs that all networks of a space share: stem, head and the rest of the file."""
    size, channels, stem, stride, classes, last = ends
    blank = (0.5,) * channels
    space = Space(
        size=size, channels=channels, classes=classes, stem=stem, stem_stride=stride, layers=(last,), blocks=()
    )
    side = after_stride(last.size, last.stride)
    with torch.device("meta"):
        first = count(RawStem(Stem(space, blank, blank)), torch.empty(1, size, size, channels, dtype=torch.uint8))
        head = count(Head(space), torch.empty(1, last.outputs, side, side))
    both = add_costs([first, head])
    return replace(both, file_bytes=both.file_bytes + FILE_BYTES + CLASS_BYTES * classes)


# One part, operator by operator


@dataclass(frozen=True)
class Step:
    """An operator that ran, with its inputs and outputs."""

    operator: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Trace(TorchDispatchMode):
    """Records every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.steps.append(Step(func, tuple(tensors(args)), tuple(tensors(result))))
        return result


def tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors with elements, from lists and tuples of any depth."""
    return (value for value in tree_leaves(values) if isinstance(value, Tensor) and value.numel() > 0)


@torch.no_grad()
def count(part: nn.Module, example: Tensor) -> Costs:
    """Run the part on a meta tensor and count its costs."""
    part.eval()
    with FlopCounterMode(display=False) as counter, Trace() as trace:
        result = part(example)
    weights = {memory_of(value) for value in (*part.parameters(), *part.buffers())}
    steps = image_dependent(trace.steps, weights)
    return Costs(
        parameters=sum(value.numel() for value in part.parameters()),
        flops=counter.get_total_flops(),
        memory_bytes=peak_bytes(steps, example, tuple(tensors(result)), weights),
        file_bytes=stored_bytes(part) + NODE_BYTES * sum(is_node(step) for step in steps),
    )


def image_dependent(steps: Iterable[Step], constants: set[int]) -> list[Step]:
    """Return the steps that depend on the image; the others' results are constants of the file."""
    kept = []
    for step in steps:
        if all(memory_of(value) in constants for value in step.inputs):
            constants |= {memory_of(value) for value in step.outputs}
        else:
            kept.append(step)
    return kept


def memory_of(value: Tensor) -> int:
    """Return the identity of the memory that a tensor is a view of, unique while the tensor exists."""
    return int(value.untyped_storage()._cdata)


def is_node(step: Step) -> bool:
    """Whether the exported file has an operator for this step."""
    return "batch_norm" not in str(step.operator)


def is_elementwise(step: Step) -> bool:
    return torch.Tag.pointwise in step.operator.tags or "batch_norm" in str(step.operator)


def peak_bytes(steps: list[Step], example: Tensor, results: tuple[Tensor, ...], constants: set[int]) -> int:
    """Return the largest number of bytes that are alive at any step: what it reads, what it writes, and what a later
    step reads. `constants`: memory of weights, which is not counted."""
    ends = {memory_of(value): index for index, step in enumerate(steps) for value in step.inputs}
    ends |= dict.fromkeys(map(memory_of, results), len(steps))
    place = {memory_of(example): memory_of(example)}  # a tensor's memory: another's if an operator overwrites its input
    sizes = {memory_of(example): example.nbytes}
    spans = {memory_of(example): (0, ends.get(memory_of(example), 0))}
    for now, step in enumerate(steps):
        free = [memory_of(value) for value in step.inputs if is_elementwise(step) and ends[memory_of(value)] == now]
        for value in step.outputs:
            key = memory_of(value)
            if key in place or key not in ends:
                continue  # a view, or an output that is never read
            fitting = [place[one] for one in free if one not in constants and sizes[place[one]] == value.nbytes]
            home = place[key] = fitting[0] if fitting else key
            sizes[home] = value.nbytes
            spans[home] = (spans.get(home, (now, now))[0], ends[key])
    return max(
        sum(sizes[home] for home, (born, end) in spans.items() if born <= now <= end)
        for now in range(max(1, len(steps)))
    )


def stored_bytes(part: nn.Module) -> int:
    """Return the bytes of the file's arrays: each convolution's weight and (batch norm's) bias, and the classifier."""
    total = 0
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            total += 4 * (module.weight.numel() + module.out_channels) + 2 * ARRAY_BYTES
        elif isinstance(module, nn.Linear):
            total += 4 * module.weight.numel() + ARRAY_BYTES
    return total


# Limits on costs

ADDITIVE: Mapping[str, tuple[str, Callable[[Costs], float], float]] = {
    "max_parameters": ("parameters", lambda costs: costs.parameters, 0.0),
    "max_flops": ("FLOPs", lambda costs: costs.flops, 0.0),
    "max_file_bytes": ("bytes", lambda costs: costs.file_bytes, 0.03),
}
"""Limits on costs that add up over parts: setting -> (unit, the limited cost, share of the limit that is kept free for
the estimate's error)."""


def within_memory(space: Space, settings: ArchitectureSettings) -> Space:
    """Return the space without the blocks that alone need more memory than the settings allow.

    A network's peak is its parts' highest peak, so the result has exactly the networks within the limit. Raises
    ValueError if there is none.
    """
    limit = settings.max_memory_bytes
    if limit is None:
        return space
    peaks = {
        (index, name): block_costs(name, layer).memory_bytes
        for index, layer in enumerate(space.layers)
        for name in candidates(space, index)
    }
    cheapest = tuple(
        min(candidates(space, index), key=lambda name: peaks[index, name]) for index in range(len(space.layers))
    )
    least = costs_of(space, cheapest).memory_bytes
    require(
        least <= limit,
        f"architecture.max_memory_bytes is {limit}, below the {least} bytes that the network of the smallest peak "
        f"needs ({format_architecture(cheapest)}); raise it, offer smaller blocks, or narrow stem and stages",
    )
    return replace(space, barred=frozenset(place for place, peak in peaks.items() if peak > limit))
