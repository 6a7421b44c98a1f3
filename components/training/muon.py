"""Muon: orthogonalised momentum for the weights of convolutions.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the constants and the fixed norm of the
weights are those of Jordan's airbench for CIFAR-10 (2024). torch's own `torch.optim.Muon` takes matrices only.

    G  gradient of a convolution as a matrix, outputs x (inputs * kernel^2)
    M  momentum, M <- mu M + G
    W  weights, scaled to the norm sqrt(outputs), then moved by -rate * orthogonalised(G + mu M)

The scale of a convolution before a batch norm does not matter to the network, so that a fixed norm makes the rate mean
the same in every layer, and weight decay needless.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.training.devices import one_thread

MOMENTUM = 0.6
"""mu."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, chosen by Muon's authors for few steps: singular values end near 1, not at it."""
STEPS = 3
"""Number of iterations (airbench)."""
SMALLEST_NORM = 1e-7


def muon_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights of all convolutions that mix channels and have no bias: in our networks a batch norm follows
    these, so that their scale is free."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return [one.weight for one in convolutions if one.groups == 1 and one.bias is None]


class Muon(torch.optim.Optimizer):
    """Steps of fixed size, with momentum, along the nearest orthogonal matrix. Parameters without a gradient stay."""

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: training evaluates the loss once
        with one_thread():  # on two, products of matrices so small take four times as long
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self.move(weight, weight.grad, group["lr"])

    def move(self, weight: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(momentum, alpha=MOMENTUM)
        weight.mul_(len(weight) ** 0.5 / (weight.norm() + SMALLEST_NORM))
        weight.sub_(orthogonalised(ahead.reshape(len(weight), -1)).view(weight.shape), alpha=rate)


def orthogonalised(matrix: Float[Tensor, "m n"], steps: int = STEPS) -> Float[Tensor, "m n"]:
    """Return about the nearest matrix whose singular values are all 1, by so many Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + SMALLEST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if tall else x
