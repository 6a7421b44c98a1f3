"""Measurements of a finished model: the interval of its accuracy, the per-class table, the logits of its ONNX file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from jaxtyping import Float, Int64, UInt8


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One row of the per-class table; shares are in 0..1, nan where the denominator is 0."""

    name: str
    images: int
    recall: float
    precision: float


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson, 1927), which also holds near 0 and 1 and for small counts."""
    from scipy.stats import binomtest  # takes half a second, which those who need only logits are spared

    interval = binomtest(correct, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def per_class(
    predicted: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], names: Sequence[str]
) -> list[ClassRow]:
    """Return recall and precision of every class."""
    from sklearn.metrics import precision_recall_fscore_support  # takes a second, as above

    figures = precision_recall_fscore_support(labels, predicted, labels=np.arange(len(names)), zero_division=np.nan)
    return [
        ClassRow(name=name, images=int(images), recall=float(recall), precision=float(precision))
        for name, precision, recall, _, images in zip(names, *figures, strict=True)
    ]


def agreement(first: Float[np.ndarray, "n k"], second: Float[np.ndarray, "n k"]) -> float:
    """Return the share of images for which two models predict the same class."""
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())


def onnx_logits(
    model: bytes, images: UInt8[np.ndarray, "n h w c"], *, batch_size: int = 256, threads: int = 1
) -> Float[np.ndarray, "n k"]:
    """Return the logits that ONNX Runtime's CPU provider computes for raw images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in in_batches(images, batch_size)])


def in_batches(images: UInt8[np.ndarray, "n h w c"], size: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])
