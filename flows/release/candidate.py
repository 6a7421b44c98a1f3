"""Prepare the model file for the registry, and check that the registry returns the same file."""

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


def check_alias(model: bytes, params: Params) -> tuple[gate.Check, ...]:
    """Compare the model that the challenger's alias loads now with the file that was judged."""
    images = judge.test_images().images[:COMPARED]
    loaded = models.load_by_alias(params.publish.model, CHALLENGER)
    logits = onnx_logits(model, images, threads=params.threads)
    again = onnx_logits(loaded.model, images, threads=params.threads) if loaded else None
    found = files.md5_of(loaded.model) if loaded else registry.NONE
    return gate.registry_checks(files.md5_of(model), found, logits, again)


def make_candidate(model: bytes, params: Params) -> models.Candidate:
    providers = dict.fromkeys((PROVIDERS[params.latency.provider], PROVIDERS["cpu"]))
    example = np.array(judge.test_images().images[:EXAMPLES])
    return models.Candidate(model=model, example=example, requirements=requirements(), providers=tuple(providers))


def requirements() -> tuple[str, ...]:
    """Return the packages that run the model, pinned to the versions that it was checked with."""
    return tuple(f"{name}=={version(name)}" for name in ("numpy", "onnx", runtime_package()))


def runtime_package() -> str:
    """Return the name of the installed ONNX Runtime package."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return "onnxruntime"
    return "onnxruntime-gpu"
