"""Random number generators: every use has a stream of its own, named by its purpose.

numpy pads a short seed with zeros, so that `default_rng(7)`, `default_rng([7, 0])` and `default_rng((7, 0, 0))` are one
stream; seeding by a hash of the whole name avoids such collisions.
"""

import hashlib

import numpy as np
import torch

Key = int | str | bytes
"""Tells the streams of one purpose apart: a trunk, a copy, a stage, or the content hash of an image (32 bytes)."""


def stream(seed: int, purpose: str, *keys: Key) -> np.random.Generator:
    """Return the generator of this seed, purpose and keys, the same in every process and on every machine."""
    name = (int(seed), purpose, *(key if isinstance(key, str | bytes) else int(key) for key in keys))
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


def torch_stream(seed: int, purpose: str, *keys: Key) -> torch.Generator:
    """Return the generator of this seed, purpose and keys for torch, on the CPU."""
    return torch_rng(stream(seed, purpose, *keys))


def torch_rng(rng: np.random.Generator) -> torch.Generator:
    """Return a torch generator that is seeded by the next number of numpy's generator."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
