"""Where networks train, and on how many threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

Make = Callable[[], nn.Module]
"""Builds the network (a `Classifier`), the same first weights every time; picklable, for copies in other processes."""
Devices = tuple[torch.device, ...]
"""Where copies train, in turns; scores are taken, and copies meet, on the first."""

CPU: Devices = (torch.device("cpu"),)


def network_on(devices: Devices, make: Make, copy: int = 0) -> nn.Module:
    """A network for the copy, whose index alone says where: records never depend on the worker."""
    return make().to(devices[copy % len(devices)])


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: the same sums in the same order on every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
