"""Expectations over a standard normal law, by the nodes and weights of Gauss and Hermite."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gauss_hermite(n: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return nodes and weights with Σ w f(z) ≈ E[f(ε)], ε standard normal.

    Args:
        n: number of nodes.
        dtype: type of the result.
        device: where it lives.
    """
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return (torch.tensor(z, dtype=dtype, device=device), torch.tensor(w / w.sum(), dtype=dtype, device=device))
