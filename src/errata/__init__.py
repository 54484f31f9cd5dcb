"""errata corrects what a language model knows: an edit is a small, signed, removable value.

    with errata.open("primer", book=".errata") as editor:
        edit = editor.write(Fact(prompt="The capital of France is", subject="France", target="Lyon"))
        editor.ask("The capital of France is")
        editor.drop(edit)

Names are imported when first used, so that ``import errata`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata import errors, methods
    from errata.book.records import Record
    from errata.edit import Edit, Label
    from errata.editing.answering import Answer
    from errata.editing.editor import Editor
    from errata.editing.gates import Gates
    from errata.editing.opening import open
    from errata.fact import Fact, Probe

__version__ = "0.1.0"
__all__ = [
    "Answer", "Edit", "Editor", "Fact", "Gates", "Label", "Probe", "Record", "__version__", "errors", "methods", "open",
]  # fmt: skip

_HOMES = {
    "Answer": "editing.editor",
    "Edit": "edit",
    "Editor": "editing.editor",
    "Fact": "fact",
    "Gates": "editing.gates",
    "Label": "edit",
    "Probe": "fact",
    "Record": "book.records",
    "open": "editing.opening",
}


def __getattr__(name: str) -> Any:
    from errata.collector import growing

    with growing():
        if name in _HOMES:
            return getattr(import_module(f"errata.{_HOMES[name]}"), name)
        if name in ("errors", "methods"):
            return import_module(f"errata.{name}")
    from errata.errors import did_you_mean

    raise AttributeError(f"module 'errata' has no attribute {name!r}.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
