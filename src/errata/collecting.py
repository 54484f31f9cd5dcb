"""The statistics a method needs: read in one go, or in parts by processes that know nothing of each other.

collect(lm, method)                        # all of it, unless it is there
collect(lm, method, part="2/4")            # the second of four parts, here or on another machine
collect(lm, method, part="all/4")          # all four put together, once their files lie in one directory
"""

from __future__ import annotations

from typing import Any

from errata.errors import BadConfig
from errata.methods._locate import LocateThenEdit
from errata.methods.base import Method
from errata.model.lm import LM
from errata.stats.store import Progress, merge_parts, read_part


def collect(lm: LM, method: Method, progress: Progress | None = None, part: str = "") -> dict[str, dict[str, Any]]:
    """Compute the statistics a method needs on a model, if they are not there yet; return by site how much was read.

    Args:
        part: ``"I/N"`` reads one of N parts, ``"all/N"`` adds them up. The corpus and a number of tokens must be the same
            for every part, and for the edits that are to use the sum: parts cannot know when the whole has settled.

    Raises:
        BadConfig: the part is no such thing, the method needs no covariance, or no number of tokens is set.
        StatsMissing: a part that is to be added up is not there.
    """
    how = method.resolve(lm)
    if not part:
        how.prepare(lm, progress)
        return how.statistics(lm)
    which, _, of = part.partition("/")
    if not (of.isdigit() and (which == "all" or (which.isdigit() and 1 <= int(which) <= int(of)))):
        raise BadConfig(f"{part!r} is no part: give 1/4 to 4/4 to read one of four, then all/4 to put them together.")
    if not isinstance(how, LocateThenEdit):
        raise BadConfig(f"{how.name} needs no covariance of keys; leave the part out.")
    if not how.tokens:
        raise BadConfig("parts of a text need a number of tokens: set tokens=N, for every part and when writing.")
    common = (lm, how.sites(), how.corpus, how.tokens)
    if which == "all":
        return merge_parts(*common, int(of))
    return read_part(*common, part, progress)
