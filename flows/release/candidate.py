"""The file as it goes into the registry, and as it comes out again."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np

from components.architecture.timing import PROVIDERS
from components.settings.params import Params
from components.shipping.evaluation import onnx_logits
from flows.checkout import files
from flows.release import gate, judge, registry
from flows.release.registry import CHALLENGER
from flows.tracking import models

EXAMPLES = 2
"""Real images that show how the registered model is called."""
COMPARED = 64
"""Test images whose logits must be the same through the registry."""


def through_the_alias(model: bytes, params: Params) -> tuple[gate.Check, ...]:
    """What a user of the challenger's alias loads now, beside the file that was judged."""
    images = judge.test_images().images[:COMPARED]
    loaded = models.load_by_alias(params.publish.model, CHALLENGER)
    logits = onnx_logits(model, images, threads=params.threads)
    again = onnx_logits(loaded.model, images, threads=params.threads) if loaded else None
    found = files.md5_of(loaded.model) if loaded else registry.NONE
    return gate.registry_checks(files.md5_of(model), found, logits, again)


def candidate(model: bytes, params: Params) -> models.Candidate:
    providers = dict.fromkeys((PROVIDERS[params.latency.provider], PROVIDERS["cpu"]))
    example = np.array(judge.test_images().images[:EXAMPLES])
    return models.Candidate(model=model, example=example, requirements=requirements(), providers=tuple(providers))


def requirements() -> tuple[str, ...]:
    """What runs the model, pinned to what it was checked with."""
    return tuple(f"{name}=={version(name)}" for name in ("numpy", "onnx", runtime_package()))


def runtime_package() -> str:
    """The name under which ONNX Runtime is installed here."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return "onnxruntime"
    return "onnxruntime-gpu"
