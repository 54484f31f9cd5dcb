"""Invented names, few parts and many combinations.

People share first and last names on purpose: no single token tells who is meant, so a model must gather the whole name
at its last token, which is where locate-then-edit methods write.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

_FIRST = (
    "Alma Boris Clara Dorin Edda Felix Greta Hugo Irma Jonas Karla Leon Mira Nils Olga Pavel Rosa Stefan Thea Urban "
    "Vera Walter Yara Zoltan Agnes Bruno Cora Dario Elsa Fabian Gilda Henrik Ines Julius Lotte Marek Nora Otto Petra Ruben"
).split()
_LAST = (
    "Torvik Marden Halloran Quist Brandt Okonjo Delmar Sorrel Vance Ivarsen Lindqvist Parrow Castell Umber Roswell "
    "Kestrel Nakano Ferro Almeida Dragan Whitlock Osei Bellamy Zander Holt Marchetti Renshaw Tully Varga Ashdown "
    "Corbin Ekholm Falk Gorman Hadley Jessop Kovar Lorne Mercer Novak"
).split()
_TOWN = ("Har Kes Dun Mar Os El Brad Win Tor Ash Pen Cor Fal Gran Hol Lang Mil Nor Rav Stan Thorn Ul Wes Yar").split()
_TOWN_END = "wick bury ford mere holm dale gate field stow haven burn crest moor ness by ridge".split()
_FIRM = "Aldo Breva Celtra Domix Evron Fenta Gavio Hexor Ixel Jorva Kalto Lumen Morvo Nexa Orbis Pelta Qorin Rolvo Sanda Trevo".split()
_FIRM_END = "Mills Works Foods Press Tools Glass Lines Motors".split()
_COLOUR = "Red Blue Black White Silver Golden Green Crimson Amber Ivory".split()
_BEAST = "Falcon Otter Lynx Heron Badger Raven Wolf Stag Viper Crane".split()
_SYLLABLES = "ba do ke li mo ra su ve zi ta no pe ga ri lu sha fe ko mi tu".split()


def _made_up(start: Sequence[str], count: int) -> list[str]:
    """Return `count` names: the given ones first, then as many syllable names as are wanting."""
    made = ("".join(parts).capitalize() for parts in itertools.product(_SYLLABLES, repeat=3))
    fresh = (name for name in made if name not in start)
    return list(itertools.islice(itertools.chain(start, fresh), count))


def people(rng: random.Random, count: int) -> list[str]:
    """Return `count` different "First Last" names, drawn from about 2.5 times as many combinations."""
    side = max(len(_FIRST), math.ceil(math.sqrt(2.5 * count)))
    first, last = _made_up(_FIRST, side), _made_up(_LAST, side)
    return rng.sample([f"{a} {b}" for a in first for b in last], count)


def towns(rng: random.Random, count: int) -> list[str]:
    """Return `count` different town names, one word while combinations last."""
    plain = [a + b for a in _TOWN for b in _TOWN_END]
    if count <= len(plain):
        return rng.sample(plain, count)
    qualified = [f"{q} {name}" for q in ("Upper", "Lower", "Old", "New", "East", "West") for name in plain]
    return plain + rng.sample(qualified, count - len(plain))


def companies(rng: random.Random, count: int) -> list[str]:
    """Return `count` different company names of two words."""
    stems = _made_up(_FIRM, max(len(_FIRM), math.ceil(count / 4)))
    return rng.sample([f"{a} {b}" for a in stems for b in _FIRM_END], count)


def nicknames(rng: random.Random, count: int) -> list[str]:
    """Return up to 100 different nicknames such as "Red Falcon"."""
    return rng.sample([f"{a} {b}" for a in _COLOUR for b in _BEAST], min(count, 100))
