"""The states of a book as models one can ask: ``base``, ``base@tag``, ``base@3f9a1c``, ``base@12``, ``base@now``.

What is before the ``@`` is the model's own name, or the word ``base``. A state is known by the edits that stand in it, so two
names of one state are answered together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from errata import methods
from errata.book import states
from errata.delta import Change, Site
from errata.edit import Edit, ground
from errata.editing import standing
from errata.editing.editor import Editor
from errata.errors import InputError

LISTED: Final = 1000  # names that are known until the book changes
KEPT: Final = 32  # states whose edits are kept in memory


class UnknownState(InputError):
    """No model of this name is served, or its book has no such state."""


@dataclass(frozen=True, slots=True)
class ServedState:
    """A state as it was when it was asked for.

    Args:
        name: as models are listed. ids: the edits that stand, in order. ground: what they come to, as one word.
    """

    name: str
    ids: tuple[str, ...]
    ground: str


class States:
    """Finds states by their names and gives their edits; used by the thread that holds the model.

    Args:
        editor: the model with its book.
    """

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._found: dict[str, ServedState] = {}
        self._version = -1
        self._deltas: OrderedDict[tuple[str, ...], list[Mapping[Site, Change]]] = OrderedDict()

    def find(self, model: str) -> ServedState:
        """Return the state that the name of a model means now; raises UnknownState."""
        if (version := self._editor.book.version()) != self._version:
            self._found, self._version = {}, version
        if model not in self._found:
            found = self._resolve(model)
            self._found = {**(self._found if len(self._found) < LISTED else {}), model: found}
        return self._found[model]

    def _resolve(self, model: str) -> ServedState:
        own = self._editor.name
        rest = next((model[len(n) :] for n in (own, "base") if model == n or model.startswith(f"{n}@")), None)
        if rest is None:
            raise UnknownState(
                f"no model {model!r} is served here, only {own}, or one of its states, such as {own}@now."
            )
        wanted = rest[1:] or states.BASE
        wanted = f"@{wanted}" if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else wanted
        try:
            state = states.at(self._editor.book, wanted)
        except InputError as error:
            raise UnknownState(f"{model}: {error}") from error
        return ServedState(
            own if wanted == states.BASE else f"{own}@{rest[1:]}", state.ids, ground(state.ids) or "base"
        )

    def deltas(self, state: ServedState) -> list[Mapping[Site, Change]]:
        """Return the deltas of a state's edits; the very same objects each time. Raises CorruptEdit."""
        if state.ids not in self._deltas:
            self._deltas[state.ids] = [edit.deltas for edit in self._edits(state.ids)]
        self._deltas.move_to_end(state.ids)
        while len(self._deltas) > KEPT:
            self._deltas.popitem(last=False)
        return self._deltas[state.ids]

    def _edits(self, ids: tuple[str, ...]) -> list[Edit]:
        now = self._editor.standing
        if tuple(edit.id for edit in now) == ids:
            return now
        book = self._editor.book
        return methods.rebuilt(self._editor.lm, standing.load(book, [book.get(id) for id in ids]))
