"""What plugins are written with: methods, benchmark readers, export forms and metrics import from here, and from nowhere else.

    from errata.sdk import LM, Edit, Fact, Method, Solution, Site          # a method, under the group errata.methods
    from errata.sdk import Case, KnownSet, RawRow, build                   # a benchmark, under errata.readers
    from errata.sdk import ExportForm, new_directory, sums_of              # a form, under errata.exports
    from errata.sdk import Metric, Row, Score                              # a number, under errata.metrics

A name that stands here keeps its meaning until the second part of errata's version changes, and CHANGELOG.md says so then;
other modules move as they must. docs/adding-a-method.md has a whole plugin, docs/sdk.md every name. Names are imported when
they are first used: a reader of files does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from errata import errors
    from errata.data.case import Case
    from errata.data.cases import KnownSet
    from errata.data.readers.raw import RawRow, build
    from errata.delta import Columns, Dense, Graft, LowRank, Site
    from errata.edit import Edit
    from errata.evaluate.metrics import Metric, Row, Score
    from errata.export.files import ExportedMatrix, module_path, new_directory, sums_of, write_log
    from errata.export.forms import ExportForm
    from errata.fact import Fact, Probe
    from errata.methods.base import Auto, Method, Role, Solution, filled, layer_at, roles_of, step_for, with_role
    from errata.methods.shared.fine_tuned import OneTuned
    from errata.methods.shared.locate_then_edit import LocateThenEdit
    from errata.methods.shared.many_matrices import ManyMatrices
    from errata.methods.shared.one_matrix import OneMatrix
    from errata.methods.shared.orthogonal import Constrained
    from errata.model.lm import LM
    from errata.model.query import Query
    from errata.model.tokens import Batch
    from errata.model.trace import Trace
    from errata.plugins import PluginWarning
    from errata.solve import keys, least_squares, subspace, values
    from errata.solve.descent import losses, matrix
    from errata.stats import store

# By what a name is for: where each is defined; what stands after a colon is a module, and the name is the module's own.
PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "A method": {
        "Method": "methods.base", "Solution": "methods.base", "Auto": "methods.base", "Role": "methods.base",
        "filled": "methods.base", "layer_at": "methods.base", "roles_of": "methods.base", "step_for": "methods.base",
        "with_role": "methods.base",
    },
    "What a method may derive from": {
        "Constrained": "methods.shared.orthogonal", "LocateThenEdit": "methods.shared.locate_then_edit",
        "OneMatrix": "methods.shared.one_matrix", "ManyMatrices": "methods.shared.many_matrices",
        "OneTuned": "methods.shared.fine_tuned",
    },
    "Facts, edits and changes": {
        "Fact": "fact", "Probe": "fact", "Edit": "edit", "Site": "delta", "LowRank": "delta", "Columns": "delta",
        "Dense": "delta", "Graft": "delta",
    },
    "The model": {"LM": "model.lm", "Query": "model.query", "Batch": "model.tokens", "Trace": "model.trace"},
    "Mathematics, a module each": {
        "keys": "solve:keys", "values": "solve:values", "least_squares": "solve:least_squares", "subspace": "solve:subspace",
        "matrix": "solve.descent:matrix", "losses": "solve.descent:losses", "store": "stats:store",
    },
    "A benchmark": {
        "KnownSet": "data.cases", "Case": "data.case", "RawRow": "data.readers.raw", "build": "data.readers.raw",
    },
    "An export form": {
        "ExportForm": "export.forms", "ExportedMatrix": "export.files", "new_directory": "export.files",
        "sums_of": "export.files", "module_path": "export.files", "write_log": "export.files",
    },
    "A number of a benchmark": {
        "Metric": "evaluate.metrics.base", "Row": "evaluate.metrics.base", "Score": "evaluate.metrics.base",
    },
    "What goes wrong": {"errors": ":errors", "PluginWarning": "plugins"},
}  # fmt: skip
_HOMES: Final = {name: home for part in PARTS.values() for name, home in part.items()}
__all__ = [  # noqa: RUF022 - in the order of their parts
    "Method", "Solution", "Auto", "Role", "filled", "layer_at", "roles_of", "step_for", "with_role",
    "Constrained", "LocateThenEdit", "OneMatrix", "ManyMatrices", "OneTuned",
    "Fact", "Probe", "Edit", "Site", "LowRank", "Columns", "Dense", "Graft",
    "LM", "Query", "Batch", "Trace",
    "keys", "values", "least_squares", "subspace", "matrix", "losses", "store",
    "KnownSet", "Case", "RawRow", "build",
    "ExportForm", "ExportedMatrix", "new_directory", "sums_of", "module_path", "write_log",
    "Metric", "Row", "Score",
    "errors", "PluginWarning",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from errata.errors import did_you_mean

        raise AttributeError(f"module 'errata.sdk' has no attribute {name!r}.{did_you_mean(name, _HOMES)}")
    room, colon, module = _HOMES[name].partition(":")
    inner = ".".join(part for part in ("errata", room, module) if part)
    return import_module(inner) if colon else getattr(import_module(inner), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
