"""Export of a torch module to an ONNX file whose bytes depend on the model alone."""

import json
from collections.abc import Sequence

import onnx
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.data.store import Classes

OPSET = 20


class RawImages(nn.Module):
    """The network as it ships: it takes uint8 NHWC images, normalises them, and returns logits and probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: UInt8[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        logits = self.network(images.permute(0, 3, 1, 2))
        return logits, logits.softmax(dim=1)


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    dynamic_batch: bool = True,
) -> onnx.ModelProto:
    """Export with torch's dynamo exporter, in evaluation mode, with a free batch dimension unless told otherwise.

    The source paths and stack traces that the exporter writes into the metadata are removed, so that two checkouts give
    the same bytes.
    """
    module.eval()
    shapes = tuple({0: torch.export.Dim("batch")} for _ in example) if dynamic_batch else None
    program = torch.onnx.export(
        module,
        example,
        input_names=list(input_names),
        output_names=list(output_names),
        dynamic_shapes=shapes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return strip(program.model_proto)


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter wrote about the code: paths, stack traces, names of modules."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in (model.graph, *(function for function in model.functions)):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in graph.value_info:
            del value.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    return model


def export_network(network: nn.Module, classes: Classes, architecture: str) -> onnx.ModelProto:
    """Return the file that ships: `images` uint8 [n, size, size, channels] -> `logits`, `probabilities` float32 [n, k].

    Class names, input size, channels and the architecture's text are in the file's metadata, so that it needs no other
    file.
    """
    example = torch.zeros((2, classes.size, classes.size, classes.channels), dtype=torch.uint8)
    model = to_onnx(RawImages(network), (example,), ["images"], ["logits", "probabilities"])
    metadata = {
        "classes": json.dumps(list(classes.names), ensure_ascii=False),
        "size": str(classes.size),
        "channels": str(classes.channels),
        "architecture": architecture,
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def read_metadata(model: bytes) -> dict[str, str]:
    """Return the metadata that `export_network` wrote into the file."""
    return {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}
