"""The parts of a space's networks as ONNX graphs: cut out of one export, and composed to networks.

In int8 the parts are cut, between uint8 tensors, out of whole networks that are quantised like the one that ships.
Their ranges come from random images: they change the results, not the time.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import onnx
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from components.architecture.network import Stem, build_block, seeded
from components.architecture.part_modules import Empty, Head, RawStem, SideBySide
from components.architecture.parts import EMPTY, HEAD, STEM, part_name, parts, repeat_block
from components.architecture.space import (
    IDENTITY,
    Architecture,
    Space,
    after_stride,
    candidates,
)
from components.settings.export import Export
from components.shipping.export import to_onnx
from components.shipping.quantisation import convert
from components.streams import stream

RANDOM_IMAGES = 4
"""Number of random images that give the ranges of a network that is quantised only to be timed (ours)."""


def export_parts(space: Space) -> dict[str, onnx.ModelProto]:
    """Export every distinct part of the space's networks as an ONNX model with a free batch, as in the file that ships.

    All are exported at once, since an export takes seconds; then each is cut out of the graph.
    """
    modules, examples = part_modules(space)
    inputs = {name: f"x{index}" for index, name in enumerate(modules)}
    outputs = {name: [f"y{index}"] for index, name in enumerate(modules)} | {HEAD: ["logits", "probabilities"]}
    whole = to_onnx(
        SideBySide(modules.values()),
        tuple(examples.values()),
        list(inputs.values()),
        list(chain(*outputs.values())),
        dynamic_batch=False,  # the exporter supports no free dimension of `*inputs`
    )
    cutter = onnx.utils.Extractor(free_batch(whole))
    return {name: cutter.extract_model([inputs[name]], outputs[name]) for name in modules}


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the first dimension of every input and output free; no operator of ours fixes it."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


def part_modules(space: Space) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Return the parts by name, and an example input for each, of two images (one would be taken for a constant)."""
    last = space.layers[-1]
    side = after_stride(last.size, last.stride)
    blank = (0.5,) * space.channels
    with seeded(0, "weights that are only timed"):
        modules = {STEM: RawStem(Stem(space, blank, blank)), EMPTY: Empty(), HEAD: Head(space)}
        examples = {
            STEM: torch.zeros((2, space.size, space.size, space.channels), dtype=torch.uint8),
            EMPTY: torch.zeros((2, 1)),
            HEAD: torch.zeros((2, last.outputs, side, side)),
        }
        for index, layer in enumerate(space.layers):
            for block in candidates(space, index):
                name = part_name(block, str(layer))
                if block != IDENTITY and name not in modules:
                    modules[name] = build_block(block, layer)
                    examples[name] = torch.zeros((2, layer.inputs, layer.size, layer.size))
        shift(modules.values())
    return modules, examples


def shift(modules: Iterable[nn.Module]) -> None:
    """Draw the biases of batch norm as if they were trained, because the exporter drops a bias of zeros."""
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.bias)


def compose(
    models: Mapping[str, onnx.ModelProto], layers: tuple[str, ...], architecture: Architecture
) -> onnx.ModelProto:
    """Compose the whole network from its parts' graphs, without another export."""
    first, *rest = (
        onnx.compose.add_prefix(models[name], f"part{index}_") for index, name in enumerate(parts(layers, architecture))
    )
    whole: onnx.ModelProto = first
    for part in rest:
        whole = onnx.compose.merge_models(whole, part, io_map=[(whole.graph.output[0].name, part.graph.input[0].name)])
    del whole.opset_import[len(first.opset_import) :]  # it lists every part's, all the same
    return whole


def whole_model(
    exported: Mapping[str, onnx.ModelProto], space: Space, export: Export, architecture: Architecture
) -> onnx.ModelProto:
    """Compose the whole network in the precision that ships; random images give the ranges, if it needs any."""
    composed = compose(exported, tuple(str(layer) for layer in space.layers), architecture)
    return convert(composed, random_images(space), export)


def random_images(space: Space) -> UInt8[np.ndarray, "n h w c"]:
    shape = (RANDOM_IMAGES, space.size, space.size, space.channels)
    return stream(0, "random images").integers(0, 256, shape, dtype=np.uint8)


def float_parts(exported: dict[str, onnx.ModelProto], space: Space, export: Export) -> dict[str, onnx.ModelProto]:
    """Return the parts as they were exported."""
    return exported


def int8_parts(exported: dict[str, onnx.ModelProto], space: Space, export: Export) -> dict[str, onnx.ModelProto]:
    """Cut the parts out of quantised networks, one for each block; between the parts are uint8 tensors."""
    layers, cut = tuple(str(layer) for layer in space.layers), {EMPTY: exported[EMPTY]}
    for block in space.blocks:
        architecture = repeat_block(space, block)
        whole = onnx.shape_inference.infer_shapes(whole_model(exported, space, export, architecture))
        cutter = onnx.utils.Extractor(whole)
        before = [whole.graph.input[0].name]
        *inner, last = enumerate(parts(layers, architecture))
        for index, name in inner:
            after = [f"part{index}_{exported[name].graph.output[0].name}_QuantizeLinear_Output"]
            if name not in cut:
                cut[name] = cutter.extract_model(before, after)
            before = after
        cut[last[1]] = cutter.extract_model(before, [value.name for value in whole.graph.output])
    return cut


PARTS = {"none": float_parts, "int8": int8_parts}
"""`export.quantize` -> the function that makes the parts to time from those that were exported."""
