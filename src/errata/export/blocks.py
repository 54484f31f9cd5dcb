"""MELO's blocks for an engine that loads adapters by the request: one adapter a block, and the table that chooses one.

    blocks(lm, edits, "out")                  # out/<edit id>/ for peft and vLLM, out/routing.json, out/routing.safetensors

In front of the engine, for keys in two parts: read what goes into `subject module` at every token of the prompt, and into
`module` at its last, take `subject_mean` and `mean` from them and turn both to length 1; of all entries with a subject key that
has the token it stands at and 1 − ⟨key, it⟩ ≤ reach, and a question key with 1 − ⟨key, last⟩ ≤ radius, take the one with the
least sum of both as shares of what is allowed, of equals the last, and its adapter. For keys that are the prompt's: read what
`module` puts out at the last token; of all clusters whose radius reaches it take the one with the nearest point, and the
adapter of that point. Where nothing is found, the base model answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import torch
from safetensors.torch import save_file

from errata.delta import Graft
from errata.edit import Edit
from errata.errors import InputError
from errata.export.adapter import adapter, opened
from errata.export.files import ExportedMatrix, module_path, new_directory
from errata.export.readback import read
from errata.index.clusters import Clusters
from errata.model.grafts.keyed import add_keys, entries_of, keyed_graft
from errata.model.grafts.standing import placed
from errata.model.lm import LM

KIND, PARTS = "melo", "melo-parts"


def blocks(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str]) -> list[ExportedMatrix]:
    """Write an adapter for the block of every MELO edit, and the table of keys that routes to them.

    ``routing.json`` has the adapters' names in order and where keys are read. ``routing.safetensors`` holds, for keys in two
    parts, ``subjects`` (s, d), ``tokens`` (s,) and ``about`` (s,), ``questions`` (q, e) and ``asks`` (q,), both numbers of
    entries, and of each entry ``adapter`` (n,), ``reach`` (n,) and ``radius`` (n,), besides ``subject_mean`` and ``mean``; for
    keys that are the prompt's, ``keys`` (m, d), ``adapter`` (m,) and ``cluster`` (m,) of each key, -1 for one that was
    forgotten, ``centres`` (c, d) and ``radii`` (c,).

    Raises:
        InputError: the directory exists and is not empty, no MELO edit stands, or they read their keys at different sites.
        NotWritten: what was written does not read back as it stands.
    """
    held = [(edit, graft) for edit in edits for kind in (KIND, PARTS) if (graft := _keys(edit, kind)) is not None]
    mine, where = [edit for edit, _ in held], {(graft.wrapper, str(graft.config["index"])) for _, graft in held}
    if len(where) != 1:
        found = "no MELO edit stands" if not where else "the MELO edits read their keys at different sites"
        raise InputError(f"{found}: there is no one table to route by; export single blocks with --block.")
    ((kind, index),) = where
    table = (_table if kind == KIND else _parts)([graft for _, graft in held])
    site, before = placed(index)
    about = {"base": lm.fingerprint, "site": str(site), "module": module_path(lm, site)}
    if before is None:
        about["read"] = "output, last prompt token"
    else:
        about |= {"read": "input, last prompt token", "subject site": str(before)}
        about |= {"subject module": module_path(lm, before), "subject read": "input, every prompt token"}
    with new_directory(directory) as made:
        parts = [part for edit in mine for part in adapter(lm, [opened([edit], edit.id)], made / edit.id)]
        save_file(table, made / "routing.safetensors", {"base": lm.fingerprint})
        read(made / "routing.safetensors", table)
        routing = {**about, "adapters": [edit.id for edit in mine], "prompts": [e.facts[0].prompt for e in mine]}
        (made / "routing.json").write_text(json.dumps(routing, indent=1, ensure_ascii=False), encoding="utf-8")
    return parts


def _keys(edit: Edit, kind: str) -> Graft | None:
    found = keyed_graft(edit.deltas, kind)
    return None if found is None else found[1]


def _parts(grafts: Sequence[Graft]) -> dict[str, torch.Tensor]:
    """Return the keys of entries in two parts, numbered through."""
    found = [entries_of(graft) for graft in grafts]
    sizes = torch.tensor([len(part) for part in found])
    before = (sizes.cumsum(0) - sizes).tolist()
    return {
        "subjects": torch.cat([part.subjects for part in found]),
        "tokens": torch.cat([part.tokens for part in found]),
        "about": torch.cat([part.about + first for part, first in zip(found, before, strict=True)]),
        "questions": torch.cat([part.questions for part in found]),
        "asks": torch.cat([part.asks + first for part, first in zip(found, before, strict=True)]),
        "adapter": torch.arange(len(found)).repeat_interleave(sizes),
        "reach": torch.tensor([part.bounds[0] for part in found]).repeat_interleave(sizes),
        "radius": torch.tensor([part.bounds[1] for part in found]).repeat_interleave(sizes),
        **{name: grafts[0].state[name].float() for name in ("subject_mean", "mean")},
    }


def _table(grafts: Sequence[Graft]) -> dict[str, torch.Tensor]:
    """Build the clusters from nothing, as the model does, and return them as tensors."""
    clusters = Clusters(grafts[0].state["keys"].shape[1], backend="exact")
    for graft in grafts:
        add_keys(clusters, graft)
    keys = [graft.state["keys"].float().cpu() for graft in grafts]
    cluster = torch.full((clusters.points,), -1, dtype=torch.long)
    for number in range(len(clusters.radii)):
        cluster[list(clusters.members(number))] = number
    return {
        "keys": torch.cat(keys),
        "adapter": torch.arange(len(keys)).repeat_interleave(torch.tensor([len(part) for part in keys])),
        "cluster": cluster,
        "centres": clusters.centres.clone(),
        "radii": clusters.radii.clone(),
    }
