"""Scores of a classifier's logits on labelled images; larger is better."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

LQ = 0.7
"""The exponent q of the Lq-likelihood, as its authors set it for training under wrong labels."""


def accuracy(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the share of the images whose label has the largest logit."""
    return (logits.argmax(dim=1) == labels.to(logits.device)).double().mean().item()


def log_likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the mean natural logarithm of the label's probability, at most 0."""
    return -F.cross_entropy(logits.double(), labels.to(logits.device)).item()


def likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the geometric mean of the labels' probabilities, 0 to 1; 0 if a logit is not finite."""
    value = math.exp(log_likelihood(logits, labels))
    return value if math.isfinite(value) else 0.0


def lq_likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return `smooth_lq_likelihood` as a number from -1 / `LQ` to 0."""
    return smooth_lq_likelihood(logits.double(), labels.to(logits.device)).item()


def smooth_lq_likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the mean of (p^q - 1) / q, with p the label's probability and q = `LQ`.

    It lies between the log-likelihood (q towards 0) and the mean probability of the label (q = 1), and is minus the
    generalised cross-entropy of Zhang and Sabuncu (NeurIPS 2018).
    """
    log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])
    return torch.expm1(LQ * log_p).mean() / LQ


def calibrated_log_likelihood(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the log-likelihood at the temperature that makes it largest (Guo et al., ICML 2017).

    It does not depend on how confident the classifier is. The log-likelihood is concave in the inverse temperature,
    whose best value is found by bisection between 2^-20 and 2^20.
    """
    scores, right = logits.double(), labels.to(logits.device)[:, None]
    hit = scores.gather(1, right).mean()
    low, high = -20.0, 20.0
    for _ in range(48):
        middle = (low + high) / 2
        expected = (F.softmax(scores * 2.0**middle, dim=1) * scores).sum(dim=1).mean()
        low, high = (middle, high) if hit > expected else (low, middle)
    return log_likelihood(scores * 2.0**low, labels)


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": accuracy,
    "log_likelihood": log_likelihood,
    "lq_likelihood": lq_likelihood,
    "calibrated_log_likelihood": calibrated_log_likelihood,
}
