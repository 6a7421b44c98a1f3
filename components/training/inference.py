"""Predictions of a network, and images in the layout that it takes."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from components.data.store import Split


def split_tensors(split: Split) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Return the split's images, NCHW in channels_last layout (a view of the stored NHWC bytes), and its labels."""
    images = torch.from_numpy(np.array(split.images)).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.array(split.labels))


def device_of(network: nn.Module) -> torch.device:
    """Return the device that the network's parameters are on."""
    return next(network.parameters()).device


@torch.no_grad()
def predict(network: nn.Module, images: UInt8[Tensor, "n c h w"], batch_size: int = 512) -> Float[Tensor, "n k"]:
    """Return logits in evaluation mode, on the network's device."""
    network.eval()
    device = device_of(network)
    return torch.cat([network(batch.to(device)) for batch in images.split(batch_size)])
