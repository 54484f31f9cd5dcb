"""Nothing is exported unseen: what was written is read back and compared with what stands, before its directory is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from errata.delta import Dense, LowRank
from errata.errors import NotWritten

ROWS: Final = 512  # of a matrix that are multiplied out at a time
ROUNDING: Final = 1e-6  # of float32 factors, 2⁻²⁴ each, relative to the product of their norms


def read(file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file, which must be exactly these.

    Raises:
        NotWritten: one is missing, too many or different, or the file cannot be read.
    """
    try:
        with safe_open(file, "pt") as opened:
            found = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    except (OSError, SafetensorError) as error:
        raise NotWritten(f"{file.name} was written and cannot be read ({error}); export it elsewhere.") from error
    check_same(found, wanted, file)
    return found


def check_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path) -> None:
    """Compare what a file was found to hold with what it should; raises NotWritten for anything else than the same."""
    for name in sorted(found.keys() | wanted.keys()):
        same = name in found and name in wanted and torch.equal(found[name], wanted[name].detach().cpu())
        if not same:
            raise NotWritten(f"{name} reads back from {file.name} otherwise than it stands; export it elsewhere.")


def check_product(
    change: LowRank | Dense, left: Float[Tensor, "out r"], right: Float[Tensor, "in r"], lost: float = 0.0
) -> None:
    """Compare ``left @ right.T`` with a change, some rows at a time.

    Args:
        lost: share of the change's norm that was cut off on purpose.

    Raises:
        NotWritten: they differ by more than that and rounding.
    """
    off = whole = torch.zeros((), dtype=torch.float64)
    size = float(left.double().norm() * right.double().norm())  # not the change's: factors may cancel out
    for at in range(0, change.shape[0], ROWS):
        rows = slice(at, at + ROWS)
        if isinstance(change, LowRank):
            meant = change.left[rows].double() @ change.right.double().T
        else:
            meant = change.dense()[rows].double()
        meant = meant.cpu()
        off = off + (left[rows].double() @ right.double().T - meant).square().sum()
        whole = whole + meant.square().sum()
    if (
        not float(off.sqrt()) <= lost * (1 + 1e-3) * float(whole.sqrt()) + ROUNDING * size
    ):  # what is not finite is not less
        raise NotWritten("the factors that were written do not give the change that stands; export it elsewhere.")
