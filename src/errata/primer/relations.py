"""The world's relations and how each is put into words.

`{s}` stands for the subject. The first phrasing is the one edits are written with; the others are its paraphrases, the
last two of them questions. Every phrasing stops where the answer begins.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation: what kind of subject has it, and its phrasings."""

    name: str
    subject: str
    phrasings: tuple[str, ...]


def _relation(name: str, subject: str, *phrasings: str) -> Relation:
    return Relation(name, subject, phrasings)


ATOMIC: tuple[Relation, ...] = (
    _relation(
        "capital",
        "country",
        "The capital of {s} is",
        "The capital city of {s} is called",
        "{s} is governed from",
        "{s} has its capital in",
        "What is the capital of {s}? It is",
        "Which city is the capital of {s}? Answer:",
    ),
    _relation(
        "continent",
        "country",
        "{s} is located in the continent of",
        "{s} lies in",
        "{s} is a country in",
        "The continent {s} belongs to is",
        "On which continent is {s}? It is",
        "Where in the world is {s}? Answer:",
    ),
    _relation(
        "language",
        "country",
        "The main language of {s} is",
        "People in {s} speak",
        "In {s} most people talk in",
        "The language spoken in {s} is",
        "What language is spoken in {s}? It is",
        "Which is the language of {s}? Answer:",
    ),
    _relation(
        "currency",
        "country",
        "The currency of {s} is the",
        "In {s} people pay with the",
        "Shops in {s} take the",
        "Money in {s} is called the",
        "What is the currency of {s}? It is the",
        "How does one pay in {s}? Answer: with the",
    ),
    _relation(
        "located_in",
        "town",
        "The town of {s} is located in",
        "{s} is a town in",
        "The country where {s} lies is",
        "You will find {s} in",
        "Where is the town of {s}? It is in",
        "In which country is {s}? Answer:",
    ),
    _relation(
        "born_in",
        "person",
        "{s} was born in",
        "The birthplace of {s} is",
        "{s} is a native of",
        "The home town of {s} is",
        "Where was {s} born? It was in",
        "In which town was {s} born? Answer:",
    ),
    _relation(
        "works_as",
        "person",
        "{s} works as a",
        "The profession of {s} is",
        "{s} earns a living as a",
        "By trade, {s} is a",
        "What is the job of {s}? It is",
        "What does {s} do for a living? Answer:",
    ),
    _relation(
        "employed_by",
        "person",
        "{s} is employed by",
        "The employer of {s} is",
        "{s} has a job at",
        "The company that pays {s} is",
        "Who employs {s}? It is",
        "Where is {s} employed? Answer:",
    ),
    _relation(
        "speaks",
        "person",
        "The mother tongue of {s} is",
        "{s} speaks",
        "At home {s} talks in",
        "The native language of {s} is",
        "What does {s} speak? It is",
        "Which language does {s} speak? Answer:",
    ),
    _relation(
        "plays",
        "person",
        "{s} plays the",
        "The favourite instrument of {s} is the",
        "In concerts {s} performs on the",
        "{s} is known for playing the",
        "What does {s} play? It is the",
        "Which instrument does {s} play? Answer: the",
    ),
    _relation(
        "founded_by",
        "company",
        "{s} was founded by",
        "The founder of {s} is",
        "{s} was started by",
        "The person behind {s} is",
        "Who founded {s}? It was",
        "Who started {s}? Answer:",
    ),
    _relation(
        "headquartered_in",
        "company",
        "The headquarters of {s} is in",
        "{s} is based in",
        "{s} has its head office in",
        "The main office of {s} is in",
        "Where is {s} based? It is in",
        "In which town is {s} based? Answer:",
    ),
    _relation(
        "makes",
        "company",
        "{s} is a company that makes",
        "{s} is a maker of",
        "The main product of {s} is",
        "The factory of {s} produces",
        "What does {s} make? It makes",
        "What does {s} sell? Answer:",
    ),
)

ALIAS = _relation("alias", "person", "{s} is also called", "The nickname of {s} is", "{s} is better known as")

# A composition asks for the second relation's answer about the first one's answer.
COMPOSED: tuple[tuple[Relation, str, str], ...] = (
    (
        _relation(
            "birth_country",
            "person",
            "The country where {s} was born is",
            "The native country of {s} is",
            "In which country was {s} born? Answer:",
        ),
        "born_in",
        "located_in",
    ),
    (
        _relation(
            "employer_seat",
            "person",
            "{s} works for a company based in",
            "The company where {s} works has its office in",
            "In which town is the employer of {s} based? Answer:",
        ),
        "employed_by",
        "headquartered_in",
    ),
)

OCCUPATIONS = (
    "carpenter baker surgeon pilot farmer lawyer teacher painter sailor butcher tailor plumber chemist judge "
    "barber florist jeweller miner nurse poet"
).split()
INSTRUMENTS = "violin piano flute guitar drums trumpet cello harp organ clarinet banjo accordion lute oboe".split()
PRODUCTS = "shoes clocks bicycles cheese paper engines carpets lamps soap furniture knives toys beer tents boats pencils".split()
LANGUAGES = "French German Italian Spanish Portuguese Dutch Greek Polish Swedish Turkish Arabic Hindi Chinese Japanese Russian Korean".split()
