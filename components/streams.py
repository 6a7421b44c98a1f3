"""Random numbers: every use has a stream of its own, named by what it is for.

numpy fills a short seed up with zeros, so that `default_rng(7)`, `default_rng([7, 0])` and `default_rng((7, 0, 0))` are
one stream; a hash of the whole name has no such twins.
"""

import hashlib

import numpy as np
import torch

Key = int | str | bytes
"""Which of a purpose's streams: a trunk, a copy, a stage, the content hash of an image (32 bytes)."""


def stream(seed: int, purpose: str, *keys: Key) -> np.random.Generator:
    """The stream of this seed, purpose and keys: the same in every process and on every machine, and no other's."""
    name = (int(seed), purpose, *(key if isinstance(key, str | bytes) else int(key) for key in keys))
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


def torch_stream(seed: int, purpose: str, *keys: Key) -> torch.Generator:
    """The same for torch, on the CPU."""
    return torch_rng(stream(seed, purpose, *keys))


def torch_rng(rng: np.random.Generator) -> torch.Generator:
    """A generator for torch that goes on where numpy's is."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
