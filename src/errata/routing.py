"""MELO's blocks for an engine that loads adapters by the request: one adapter a block, and the table that chooses one.

    blocks(lm, edits, "out")                  # out/<edit id>/ for peft and vLLM, out/routing.json, out/routing.safetensors

In front of the engine: read what `module` puts out at the prompt's last token; of all clusters whose radius reaches it take the
one with the nearest point, and the adapter of that point; where none reaches it, the base model answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save_file

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.errors import InputError
from errata.export import Part, adapter, module_path, new_directory, opened
from errata.index.clusters import Clusters
from errata.model.banks import labels_of
from errata.model.lm import LM

KIND = "melo"


def blocks(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str]) -> list[Part]:
    """Write an adapter for the block of every MELO edit, and the table of keys that routes to them.

    ``routing.safetensors`` holds ``keys`` (m, d), ``adapter`` (m,) and ``cluster`` (m,) of each key, -1 for one that was
    forgotten, ``centres`` (c, d) and ``radii`` (c,); ``routing.json`` the adapters' names in order and where keys are read.

    Raises:
        InputError: the directory exists and is not empty, no MELO edit stands, or they read their keys at different sites.
    """
    mine = [edit for edit in edits if _index_of(edit) is not None]
    places = {_index_of(edit) for edit in mine}
    if len(places) != 1:
        found = "no MELO edit stands" if not places else "the MELO edits read their keys at different sites"
        raise InputError(f"{found}: there is no one table to route by; export single blocks with --block.")
    (site,) = places
    assert site is not None
    table = _table(mine, site)
    about = {
        "base": lm.fingerprint,
        "site": str(site),
        "module": module_path(lm, site),
        "read": "output, last prompt token",
    }
    with new_directory(directory) as made:
        parts = [part for edit in mine for part in adapter(lm, [opened([edit], edit.id)], made / edit.id)]
        save_file(table, made / "routing.safetensors", {"base": lm.fingerprint})
        routing = {**about, "adapters": [edit.id for edit in mine], "prompts": [e.facts[0].prompt for e in mine]}
        (made / "routing.json").write_text(json.dumps(routing, indent=1, ensure_ascii=False), encoding="utf-8")
    return parts


def _index_of(edit: Edit) -> Site | None:
    keyed = (s for s, d in edit.deltas.items() if isinstance(d, Graft) and d.wrapper == KIND and "keys" in d.state)
    return next(keyed, None)


def _table(edits: Sequence[Edit], site: Site) -> dict[str, torch.Tensor]:
    """Build the clusters from nothing, as the model does, and return them as tensors."""
    clusters: Clusters | None = None
    keys, owners = [], []
    for number, edit in enumerate(edits):
        graft: Any = edit.deltas[site]
        stored = graft.state["keys"].float()
        clusters = clusters or Clusters(stored.shape[1], backend="exact")
        for key, label in zip(stored, labels_of(graft), strict=True):
            clusters.add(key, label, float(str(graft.config["radius"])))
            keys.append(key)
            owners.append(number)
    assert clusters is not None
    cluster = torch.full((len(keys),), -1, dtype=torch.long)
    for number in range(len(clusters.radii)):
        cluster[list(clusters.members(number))] = number
    return {
        "keys": torch.stack(keys), "adapter": torch.tensor(owners), "cluster": cluster,
        "centres": clusters.centres.clone(), "radii": clusters.radii.clone(),
    }  # fmt: skip
