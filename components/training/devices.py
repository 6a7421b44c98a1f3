"""Devices that networks train on, and the number of threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

Make = Callable[[], nn.Module]
"""Builds the network (a `Classifier`), with the same first weights every time; picklable, for other processes."""
Devices = tuple[torch.device, ...]
"""The devices that copies train on, in turns; networks are scored and copies averaged on the first."""

CPU: Devices = (torch.device("cpu"),)


def network_on(devices: Devices, make: Make, copy: int = 0) -> nn.Module:
    """Return a network on the copy's device, which its index alone decides, so that records never depend on workers."""
    return make().to(devices[copy % len(devices)])


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread within the block, so that sums are taken in the same order on every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
