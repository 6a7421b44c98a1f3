"""`device` in params.yaml as the torch devices that networks train on, and how they compute."""

from collections.abc import Callable

import torch

Devices = tuple[torch.device, ...]


def devices_of(setting: str) -> Devices:
    """What the setting means on this machine. Raises `ValueError` where it asks for what is not here."""
    return DEVICES[setting]()


def cpu() -> Devices:
    return (torch.device("cpu"),)


def cuda() -> Devices:
    """All of them, in order."""
    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError("device is cuda, but torch finds no CUDA device here; set device: cpu in params.yaml")
    return tuple(torch.device("cuda", index) for index in range(count))


DEVICES: dict[str, Callable[[], Devices]] = {"cpu": cpu, "cuda": cuda}


def be_deterministic(strict: bool) -> None:
    """Deterministic algorithms only, in this process; without torch's filling of new memory, which costs time and
    matters to nobody who writes before reading. (`use_deterministic_algorithms` does the same and imports Inductor: a
    second in each process.)"""
    torch.set_deterministic_debug_mode("error" if strict else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a module with properties
