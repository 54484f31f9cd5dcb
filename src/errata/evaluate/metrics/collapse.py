"""Whether the model as a whole is still well."""

from __future__ import annotations

import numpy as np

from errata.evaluate.metrics.base import Array, Score


def perplexity(means: Array) -> Array:
    """Return exp(mean negative log-likelihood per token) of a fixed text set, from mean (nll, tokens) of texts (…, 2).

    Range 1 … ∞; the collapse alarm: a healthy edit hardly moves it. Computed from the texts' first 256 tokens without
    overlap, so it compares between checkpoints, not with published values. Source: https://arxiv.org/abs/2402.09656.
    """
    with np.errstate(over="ignore"):  # a collapsed model's is infinite
        found: Array = np.exp(means[..., 0] / means[..., 1])
    return found


def norm_ratio(change: float, matrix: float) -> Score:
    """Return ‖ΔW‖ / ‖W‖ (Frobenius) of one edited matrix: all standing edits together over the base.

    Range 0 … ∞; above about 1 the edits outweigh what was learned. Source: https://arxiv.org/abs/2401.07453.
    """
    return change / matrix if matrix > 0 and np.isfinite(change) else None


def residual_share(written: Array, stream: Array) -> Score:
    """Return the mean over tokens of ‖written by the edited matrix‖ / ‖residual stream after its layer‖, both (t, d).

    Range 0 … ∞; grows without bound when an edited layer drowns out the others. Source:
    https://arxiv.org/abs/2502.01636.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(written, axis=-1) / np.linalg.norm(stream, axis=-1)
    return float(ratio.mean()) if len(ratio) and np.isfinite(ratio).all() else None
