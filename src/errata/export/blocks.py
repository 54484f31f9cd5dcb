"""MELO's blocks for an engine that loads adapters by the request: one adapter a block, and the table that chooses one.

    blocks(lm, edits, "out")                  # out/<edit id>/ for peft and vLLM, out/routing.json, out/routing.safetensors

In front of the engine: read what `module` puts out at the prompt's last token; of all clusters whose radius reaches it take the
one with the nearest point, and the adapter of that point; where none reaches it, the base model answers.
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
from errata.model.grafts.keyed import add_keys, keyed_graft
from errata.model.lm import LM

KIND = "melo"


def blocks(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str]) -> list[ExportedMatrix]:
    """Write an adapter for the block of every MELO edit, and the table of keys that routes to them.

    ``routing.safetensors`` holds ``keys`` (m, d), ``adapter`` (m,) and ``cluster`` (m,) of each key, -1 for one that was
    forgotten, ``centres`` (c, d) and ``radii`` (c,); ``routing.json`` the adapters' names in order and where keys are read.

    Raises:
        InputError: the directory exists and is not empty, no MELO edit stands, or they read their keys at different sites.
        NotWritten: what was written does not read back as it stands.
    """
    held = [(edit, keys) for edit in edits if (keys := keyed_graft(edit.deltas, KIND)) is not None]
    mine, places = [edit for edit, _ in held], {site for _, (site, _) in held}
    if len(places) != 1:
        found = "no MELO edit stands" if not places else "the MELO edits read their keys at different sites"
        raise InputError(f"{found}: there is no one table to route by; export single blocks with --block.")
    (site,) = places
    table = _table([graft for _, (_, graft) in held])
    about = {
        "base": lm.fingerprint,
        "site": str(site),
        "module": module_path(lm, site),
        "read": "output, last prompt token",
    }
    with new_directory(directory) as made:
        parts = [part for edit in mine for part in adapter(lm, [opened([edit], edit.id)], made / edit.id)]
        save_file(table, made / "routing.safetensors", {"base": lm.fingerprint})
        read(made / "routing.safetensors", table)
        routing = {**about, "adapters": [edit.id for edit in mine], "prompts": [e.facts[0].prompt for e in mine]}
        (made / "routing.json").write_text(json.dumps(routing, indent=1, ensure_ascii=False), encoding="utf-8")
    return parts


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
