"""Deltas as an edit keeps them: on the CPU, and no finer than they need be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import torch

from errata.delta import Change, Graft, Site
from errata.model.lm import LM


def stored(delta: Change, lm: LM) -> Change:
    """Return the delta as an edit keeps it, on the CPU, float32 unless the model itself is finer."""
    if isinstance(delta, Graft):
        return replace(delta, state={k: t.detach().cpu().contiguous() for k, t in delta.state.items()})
    dtype = torch.promote_types(next(lm.model.parameters()).dtype, torch.float32)
    moved = {f.name: getattr(delta, f.name).detach().cpu() for f in fields(delta)}
    return replace(delta, **{k: (t.to(dtype) if t.is_floating_point() else t).contiguous() for k, t in moved.items()})


def ratios(lm: LM, deltas: Mapping[Site, Change]) -> dict[str, float]:
    """Return ‖ΔW‖ / ‖W‖ of the base at each site."""
    sums = {s: d for s, d in deltas.items() if not isinstance(d, Graft)}
    return {str(s): d.norm() / float(lm.weights.base(s).detach().double().norm()) for s, d in sums.items()}
