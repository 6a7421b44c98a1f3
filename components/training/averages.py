"""The moving average of a network's weights."""

from torch import nn

from components.training.loop import State


def moving_average(average: State, network: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of parameters and float buffers in place, at the global step 0, 1, ...

    The decay is (1 + step) / (10 + step) where that is less: at a fixed 0.999 half of the average would still be the
    random first weights after 700 steps.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in network.state_dict().items():
        key = f"model.{name}"
        if value.is_floating_point():
            average[key].lerp_(value.detach(), 1 - decay)
        else:
            average[key].copy_(value)
