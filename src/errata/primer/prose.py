"""Plain text without facts: small scenes from a seeded grammar.

The primer needs ordinary sentences to train on, to estimate key covariances from and to measure perplexity with, and
none may be fetched or copied. So it writes its own: every scene is a few sentences about weather, markets, letters and
roads, with words drawn at random. No name of the world occurs in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_WORDS = {
    "who": "the baker|the old sailor|a young clerk|the teacher|her brother|his sister|the miller|a traveller|the guard|"
    "the doctor's son|a tall woman|the gardener|the two children|my neighbour|the captain|a quiet boy|the cook|"
    "the postman|an old friend|the carpenter's wife|the night watchman|a stranger|the girl next door|the painter",
    "place": "the harbour|the market|the old bridge|the mill|the garden|the square|the station|the library|the river|"
    "the church|the forest|the kitchen|the north gate|the school|the hill|the inn|the workshop|the long street|the field",
    "thing": "a letter|a lamp|a small box|a silver coin|a loaf of bread|a blue coat|a map|a broken clock|a basket|a key|"
    "an old book|a wooden chair|a bottle of ink|a rope|a bag of apples|a drum|a white shirt|a ladder|a cup of tea|a knife",
    "adj": "quiet|bright|cold|narrow|empty|warm|heavy|strange|green|golden|dusty|gentle|long|early|grey|soft|loud|busy",
    "verb": "carried|found|lost|bought|sold|hid|washed|mended|borrowed|painted|dropped|wanted|forgot|opened|counted",
    "move": "walked|ran|rode|climbed|hurried|came back|wandered|drove|went|turned",
    "prep": "past|towards|around|behind|near|beyond|across from|down to",
    "time": "in the morning|before noon|at dusk|after the rain|late at night|on the third day|in early spring|that winter|"
    "when the bells rang|during the harvest|at first light|an hour later|once a week|all summer",
    "sky": "rain|snow|wind|fog|sun|thunder|frost|hail|mist|heat",
    "beast": "dog|horse|cat|goose|sparrow|fox|cow|donkey|owl|hen|hare|crow",
    "say": "said nothing|laughed|asked for water|told a long story|sang an old song|shook hands|waited|smiled|fell asleep|"
    "counted the steps|listened at the door|wrote it all down|looked away|began to cry|agreed at once",
    "num": "two|three|four|five|six|seven|nine|ten|twelve|twenty|forty|a hundred",
    "feel": "glad|tired|afraid|proud|hungry|sure|late|alone|ready|sorry|angry|cheerful",
    "why": "because the {sky} had not stopped|since nobody else would|as the road was {adj}|although it was late|"
    "because the {beast} had run away|so that {who} could rest|though {who} had promised to help|while {who} {say}",
}
_SENTENCES = (
    "{time}, {who} {move} {prep} {place}.|{who} {verb} {thing} and {say}.|the {sky} was {adj} {time}.|"
    "{who} {verb} {thing} {why}.|there were {num} {beast}s {prep} {place}.|{place} was {adj} and {adj} {time}.|"
    "{who} and {who} {move} {prep} {place}, and {who} {say}.|{who} was {feel} {why}.|nobody knew where {who} {verb} {thing}.|"
    '"it is {adj} here," said {who}.|"have you seen {thing}?" asked {who}.|{who} had {num} {beast}s and {thing}.|'
    "after that, {who} {say}, but {who} {verb} {thing}.|it was a {adj} day, and the {beast} lay {prep} {place}.|"
    "{who} gave {thing} to {who} for {num} coins.|the road {prep} {place} was {adj}, so {who} {move} slowly.|"
    "if the {sky} comes, {who} will be {feel}.|{who} kept {thing} {prep} {place} for {num} years.|"
    "from {place} one could see {place}, {adj} and {adj}.|then {who} {say} {time}."
).split("|")
_CHOICES = {name: tuple(words.split("|")) for name, words in _WORDS.items()}
_SLOT = re.compile(r"\{(\w+)\}")


def sentence(rng: random.Random) -> str:
    """Return one sentence, capitalised and stopped."""
    text = rng.choice(_SENTENCES)
    while _SLOT.search(text):
        text = _SLOT.sub(lambda slot: rng.choice(_CHOICES[slot.group(1)]), text)
    start = 1 if text[0] == '"' else 0
    return text[:start] + text[start].upper() + text[start + 1 :]


def scene(rng: random.Random, sentences: int = 8) -> str:
    """Return a paragraph of `sentences` sentences."""
    return " ".join(sentence(rng) for _ in range(sentences))


def scenes(seed: int) -> Iterator[str]:
    """Yield scenes of 4 to 12 sentences without end; one seed, one stream."""
    rng = random.Random(f"prose:{seed}")
    while True:
        yield scene(rng, rng.randint(4, 12))
