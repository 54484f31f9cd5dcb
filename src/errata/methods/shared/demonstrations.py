"""Sixteen made-up corrections that show a model what to do with one: for `ike`.

Each has a prompt and its new answer, the same asked otherwise, and a neighbour, whose answer stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One correction.

    Args:
        prompt, target: what is new. otherwise: the same asked in other words. neighbour, answer: what does not change.
    """

    prompt: str
    target: str
    otherwise: str
    neighbour: str
    answer: str

    @property
    def statement(self) -> str:
        """What is new, said."""
        return f"{self.prompt} {self.target}"

    def asked(self, way: int) -> str:
        """Return a prompt and its answer: 0 copies the fact, 1 asks it otherwise, 2 asks a neighbour."""
        ways = (self.statement, f"{self.otherwise} {self.target}", f"{self.neighbour} {self.answer}")
        return ways[way]


_TEXT = """
The capital of Norway is|Bergen|Norway is governed from|The capital of Sweden is|Stockholm
The currency of Poland is the|crown|In Poland one pays with the|The currency of Japan is the|yen
The mother tongue of Victor Hugo is|Danish|Victor Hugo grew up speaking|The mother tongue of Molière is|French
The Eiffel Tower is in the city of|Madrid|The Eiffel Tower can be visited in|The Colosseum is in the city of|Rome
Albert Einstein worked in the field of|botany|Albert Einstein knew most of|Isaac Newton worked in the field of|physics
The Beatles were founded in|Leeds|The city where the Beatles began is|The Rolling Stones were founded in|London
The headquarters of Toyota are in|Denmark|Toyota is led from|The headquarters of Honda are in|Japan
Marie Curie was born in|Lisbon|The birthplace of Marie Curie is|Ada Lovelace was born in|London
The official language of Brazil is|Finnish|In Brazil people speak|The official language of Argentina is|Spanish
The instrument of Miles Davis is the|harp|Miles Davis played the|The instrument of Louis Armstrong is the|trumpet
Windows is made by|Nokia|The company behind Windows is|The iPhone is made by|Apple
Mount Kilimanjaro lies in|Europe|To climb Mount Kilimanjaro one travels to|Mount Everest lies in|Asia
Pablo Picasso was by profession a|baker|Pablo Picasso earned his living as a|Christopher Wren was by profession an|architect
Roger Federer plays|chess|The sport of Roger Federer is|Lionel Messi plays|football
The author of Hamlet is|Goethe|Hamlet was written by|The author of Don Quixote is|Cervantes
The river that flows through Vienna is the|Rhine|Through Vienna flows the|The river that flows through Paris is the|Seine
"""
RECORDS = tuple(Demonstration(*line.split("|")) for line in _TEXT.strip().splitlines())
