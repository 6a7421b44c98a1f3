"""Stage `evaluate`: measure a variant's exact files on the test split, which only this stage reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import load
from scipy.special import softmax

from components.architecture.latency import LatencyTable
from components.architecture.network import make_network
from components.architecture.space import parse_architecture, space_of
from components.architecture.timing import measure_model
from components.data.store import Classes, Split, Statistics, open_split, read_classes
from components.settings.budget import Budget
from components.settings.evaluate import Evaluate
from components.settings.latency import Latency
from components.settings.space import SearchSpace
from components.settings.variants import budget_number
from components.shipping.evaluation import agreement, onnx_logits, per_class, wilson_interval
from components.shipping.export import read_metadata
from components.training.inference import predict, split_tensors
from components.training.metrics import log_likelihood
from flows.checkout import files, paths
from flows.runtime.observer import Observer


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    budget: Budget
    evaluate: Evaluate
    latency: Latency
    space: SearchSpace


def run(params: Reads, observe: Observer, variant: str) -> None:
    """Write the variant's accuracy with its interval, the per-class table, every prediction with its confidence, and
    the measured latency beside the limit that the network was searched for."""
    classes, test = read_classes(paths.CLASSES), open_split(paths.TEST)
    table = LatencyTable.from_json(files.read_json(paths.LATENCY_TABLE))
    limit_ms = params.budget.all[budget_number(variant) - 1]
    model, exact = (read(variant, name) for name in (paths.SHIPPED, paths.FLOAT))
    logits = onnx_logits(model, test.images)
    exact_logits = logits if exact == model else onnx_logits(exact, test.images)
    predicted = logits.argmax(axis=1)
    weights = read(variant, paths.WEIGHTS)
    figures = scores(logits, test.labels) | {"parity": parity(params, classes, exact, weights, test, exact_logits)}
    predicted_ms = table.predict(
        parse_architecture(space_of(params.space, classes), read_metadata(model)["architecture"])
    )
    latency: dict[str, Any] = {"limit_ms": limit_ms, "predicted_ms": predicted_ms, **measure_latency(params, model)}
    if exact != model:
        figures |= compare_with_float(logits, exact_logits, test.labels)
        latency |= {f"float_{key}": value for key, value in measure_latency(params, exact).items()}
    names = np.array(classes.names)
    predictions = zip(names[test.labels], names[predicted], softmax(logits, axis=1).max(axis=1).tolist(), strict=True)
    files.write_json(paths.of_variant(paths.METRICS, variant), {"images": len(test.labels)} | figures)
    files.write_json(paths.of_variant(paths.MEASURED, variant), latency)
    files.write_csv(
        paths.of_variant(paths.PER_CLASS, variant),
        [vars(row) for row in per_class(predicted, test.labels, classes.names)],
    )
    files.write_csv(
        paths.of_variant(paths.PREDICTIONS, variant),
        [{"actual": str(a), "predicted": str(p), "confidence": c} for a, p, c in predictions],
    )
    shown = figures | {"latency_ms": latency["quiet_ms"], "limit_ms": limit_ms}
    observe.metrics({f"evaluate/{variant}/{key}": value for key, value in shown.items()})
    for file in (paths.METRICS, paths.MEASURED, paths.PER_CLASS, paths.PREDICTIONS):
        observe.file(paths.of_variant(file, variant))


def read(variant: str, name: str) -> bytes:
    """Return the content of a file that `train` wrote."""
    return (paths.TRAINED / variant / name).read_bytes()


def scores(logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> dict[str, float]:
    """Return the accuracy with its 95 % interval, and the mean log-likelihood in nats."""
    correct = int((logits.argmax(axis=1) == labels).sum())
    low, high = wilson_interval(correct, len(labels))
    return {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "log_likelihood": log_likelihood(torch.from_numpy(logits), torch.from_numpy(np.array(labels))),
    }


def compare_with_float(
    logits: Float[np.ndarray, "n k"], exact: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]
) -> dict[str, float]:
    """Compare with the float file: its accuracy, and the share of images that both classify alike."""
    return {"float_accuracy": scores(exact, labels)["accuracy"], "agreement": agreement(logits, exact)}


def parity(
    params: Reads, classes: Classes, model: bytes, weights: bytes, test: Split, logits: Float[np.ndarray, "n k"]
) -> float:
    """Return the largest difference between the float file's logits and those of the torch network behind it."""
    blank = (1.0,) * classes.channels  # the weights hold the real mean and deviation
    statistics = Statistics(mean=blank, std=blank, counts={})
    network = make_network(params.space, classes, statistics, read_metadata(model)["architecture"], seed=0)
    network.load_state_dict(load(weights))
    count = params.evaluate.parity_images
    images, _ = split_tensors(test.at(slice(count)))
    return float(np.abs(predict(network, images).numpy() - logits[:count]).max())


def measure_latency(params: Reads, model: bytes) -> dict[str, object]:
    """Measure the file's latency on this machine."""
    time = measure_model(model, params.latency, repeats=params.evaluate.repeats)
    return {"quiet_ms": time.quiet_ms, "p50_ms": time.p50_ms, "p99_ms": time.p99_ms, "clock": time.clock}
