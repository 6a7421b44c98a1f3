"""Static quantisation of the exported network to int8, in QDQ form, with ranges from real images.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018,
by `onnxruntime.quantization`:

    x ~ scale * (q - zero)    activations: uint8, one scale a tensor, from the smallest to the largest value seen
                              weights: int8, one scale an output channel, zero = 0

Convolutions on features, shortcuts and products with gates are computed in integers. Pre-processing and the first
convolution stay float: with few channels the float kernel is faster, and an error there reaches every layer. So do
squeeze-excite gates and the classifier, which see one pixel: their conversions cost more than they save (ours: on a
network of mixed blocks, int8 was 1.05 times as fast as float with these in integers, and 1.45 times without them).
"""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from jaxtyping import UInt8
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from components.settings.export import Export

INTEGER = ("Conv", "Add", "Relu", "Mul", "MaxPool")
"""Operators that ONNX Runtime computes on uint8 (a Relu vanishes, because its output's smallest value is 0)."""
BATCH = 32
"""Number of images that calibration runs at a time."""
QUANTIZE = "quantize"
"""Metadata key of a quantised file; a float file does not have it."""

IMAGE, FEATURES, POOLED = "image", "features", "pooled"


def convert(model: onnx.ModelProto, images: UInt8[np.ndarray, "n h w c"], settings: Export) -> onnx.ModelProto:
    """Convert the network to the settings' precision; `images` calibrate the ranges, if it needs any."""
    return PRECISIONS[settings.quantize](model, images, settings)


def as_it_is(model: onnx.ModelProto, images: UInt8[np.ndarray, "n h w c"], settings: Export) -> onnx.ModelProto:
    return model


def to_int8(model: onnx.ModelProto, images: UInt8[np.ndarray, "n h w c"], settings: Export) -> onnx.ModelProto:
    """Quantise the network; input and outputs stay, and the metadata says how it was made."""
    reduce_range = reduced_range_here() if settings.reduce_range is None else settings.reduce_range
    shaped = onnx.shape_inference.infer_shapes(model)  # a copy, which the quantiser changes
    quantizer = QDQQuantizer(
        shaped,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=tensor_ranges(shaped, images),
        nodes_to_quantize=integer_nodes(shaped.graph),
        nodes_to_exclude=[],
        op_types_to_quantize=list(INTEGER),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    del quantised.graph.value_info[:]
    noted = {entry.key: entry.value for entry in model.metadata_props}
    bits = str(8 - reduce_range)
    onnx.helper.set_model_props(quantised, noted | {QUANTIZE: "int8", "weight_bits": bits})
    onnx.checker.check_model(quantised)
    return quantised


PRECISIONS: dict[str, Callable[[onnx.ModelProto, np.ndarray, Export], onnx.ModelProto]] = {
    "none": as_it_is,
    "int8": to_int8,
}


def integer_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that compute in integers: those on features, from the first convolution onwards."""
    kinds = dict.fromkeys((value.name for value in graph.input), IMAGE)
    names: list[str] = []
    for node in graph.node:
        taken = {kinds[name] for name in node.input if name in kinds}  # without constants
        if FEATURES in taken and node.op_type in INTEGER:
            names.append(node.name)
        kinds |= dict.fromkeys(node.output, kind_after(node.op_type, taken))
    return names


def kind_after(operator: str, taken: set[str]) -> str:
    """Return the kind of an operator's output, from the kinds of its inputs."""
    if operator == "ReduceMean":
        return POOLED
    if FEATURES in taken or (operator == "Conv" and IMAGE in taken):
        return FEATURES
    return POOLED if POOLED in taken else IMAGE


def tensor_ranges(model: onnx.ModelProto, images: UInt8[np.ndarray, "n h w c"]) -> TensorsData:
    """Return every float tensor's smallest and largest value over the images; one thread gives the same bits always."""
    typed = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    names = [name for name, kind in typed.items() if kind == onnx.TensorProto.FLOAT]
    session = onnxruntime.InferenceSession(
        with_extremes(model, names).SerializeToString(), one_thread(), providers=["CPUExecutionProvider"]
    )
    image = model.graph.input[0].name
    seen = [session.run(None, {image: images[at : at + BATCH]}) for at in range(0, len(images), BATCH)]
    values = np.array(seen, dtype=np.float32)  # batches, 2 a tensor
    lowest, highest = values[:, ::2].min(axis=0), values[:, 1::2].max(axis=0)
    ranges = {name: (low, high) for name, low, high in zip(names, lowest, highest, strict=True)}
    return TensorsData(CalibrationMethod.MinMax, ranges)


def with_extremes(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are the smallest and the largest value of each of the tensors, and nothing else."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        for operator in ("ReduceMin", "ReduceMax"):
            out = f"{name}/{operator}"
            copy.graph.node.append(onnx.helper.make_node(operator, [name], [out], keepdims=0))
            copy.graph.output.append(onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, []))
    return copy


def one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def reduced_range_here() -> bool:
    """Whether sums of uint8 times int8 can saturate on this machine, an x86 processor without VNNI."""
    return lacks_vnni(platform.machine(), cpu_info())


def lacks_vnni(machine: str, info: str) -> bool:
    """Whether the machine is x86 and does not list VNNI; also true if it lists no flags at all."""
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    return machine.lower() in ("x86_64", "amd64", "i686") and "vnni" not in flags


def cpu_info() -> str:
    """Return Linux's description of the processor; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
