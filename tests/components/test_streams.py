"""A stream of random numbers is named by its seed, purpose and keys, and no two names have one stream."""

import subprocess
import sys

import numpy as np
import torch

from components.streams import stream, torch_stream

NAMES = [
    (7, "a"), (7, "a", 0), (7, "a", 0, 0), (0, "a", 7), (7, "b"), (7, "a0"), (7, "a", "0"), (7, "a", b"0"),
    (7, "a", 1, 23), (7, "a", 12, 3), (8, "a"),
]  # fmt: skip


def test_no_two_names_have_one_stream() -> None:
    assert len({stream(*name).integers(2**62) for name in NAMES}) == len(NAMES)
    assert len({torch_stream(*name).initial_seed() for name in NAMES}) == len(NAMES)


def test_numpys_own_seeds_have_twins() -> None:
    """Why the line does not use them."""
    assert np.random.default_rng(7).integers(2**62) == np.random.default_rng([7, 0]).integers(2**62)


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from components.streams import stream; print(stream(3, 'probe images', 4, b'key').integers(2**62))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == stream(3, "probe images", 4, b"key").integers(2**62)


def test_streams_of_neighbouring_keys_are_independent() -> None:
    """Their first draws are uniform over keys: the mean of 4,000 is within four standard errors."""
    first = np.array([stream(1, "images", key).random() for key in range(4000)])
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)
    assert torch.rand(1, generator=torch_stream(1, "images", 0)) != torch.rand(
        1, generator=torch_stream(1, "images", 1)
    )
