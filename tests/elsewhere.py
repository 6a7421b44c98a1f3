"""More devices for machines that have only one: their tensors say `meta` and compute on the CPU, strictly apart.

Inside `with elsewhere():` an operation that mixes two devices is refused as CUDA refuses it (numbers without
dimensions and indices may come from the CPU), and `to("meta")`, `to("cpu")` and factories move and make real values.
There are as many as one likes: `meta`, `meta:1`, `meta:2`, ...
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")
CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class There(Tensor):
    """A tensor of such a device; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, device: torch.device = DEVICE) -> "There":
        there = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=device, requires_grad=here.requires_grad,
        )  # fmt: skip
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any, named: Any = None) -> Any:
        return dispatch(function, arguments, named or {})


class Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        return dispatch(function, arguments, named or {})


def dispatch(function: Any, arguments: Any, named: dict[str, Any]) -> Any:
    values = [value for value in tree_flatten((arguments, named))[0] if isinstance(value, Tensor)]
    refuse_mixture(function, values)
    device = torch.device(named.get("device") or (values[0].device if values else "cpu"))
    bare, settings = tree_map_only(There, lambda value: value.here, (arguments, named))
    if "device" in settings:
        settings["device"] = "cpu"
    result = function(*bare, **settings)
    if device.type != DEVICE.type:
        return result
    wrapped = tree_map_only(Tensor, lambda value: There(value, device), result)
    return return_and_correct_aliasing(function, arguments, named, wrapped)


def refuse_mixture(function: Any, values: list[Tensor]) -> None:
    devices = {value.device for value in values if value.ndim > 0}
    indexed = function in INDEXING and isinstance(values[0], There)
    if len(devices) > 1 and function not in CROSSING and not indexed:
        raise RuntimeError(f"{function} got tensors of two devices")


class Lists(TorchFunctionMode):
    """Lists become tensors and tensors lists past the dispatcher: here, and moved."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        settings = dict(named or {})
        if function is Tensor.tolist:
            return arguments[0].cpu().tolist()
        if function is not torch.tensor:
            return function(*arguments, **settings)
        device = settings.pop("device", None)
        return torch.tensor(*arguments, **settings).to(device or "cpu")


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    with warnings.catch_warnings(), Elsewhere(), Lists():
        warnings.filterwarnings("ignore", ".*to a meta parameter")  # which copies nothing, but here it does
        yield DEVICE
