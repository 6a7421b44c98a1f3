"""Turn the setting `device` into torch devices, and make torch deterministic."""

from collections.abc import Callable

import torch

from components.training.devices import CPU, Devices


def devices_of(setting: str) -> Devices:
    """Return the devices that the setting means on this machine. Raises `ValueError` if there are none."""
    return DEVICES[setting]()


def cpu() -> Devices:
    return CPU


def cuda() -> Devices:
    """Return all CUDA devices, in order. Raises `ValueError` if there are none."""
    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError("device is cuda, but torch finds no CUDA device here; set device: cpu in params.yaml")
    return tuple(torch.device("cuda", index) for index in range(count))


DEVICES: dict[str, Callable[[], Devices]] = {"cpu": cpu, "cuda": cuda}


def be_deterministic(strict: bool) -> None:
    """Allow only deterministic algorithms in this process if `strict`.

    New memory is not filled: that costs time, and our code writes before it reads. (`use_deterministic_algorithms`
    would do the same, but imports Inductor, which takes a second in each process.)"""
    torch.set_deterministic_debug_mode("error" if strict else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a module with properties
