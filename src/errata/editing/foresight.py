"""What can be refused before a model is loaded, which takes seconds or minutes. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from errata.book.book import Book
from errata.book.policy import Use, check_use
from errata.content import as_path
from errata.errors import BadFile, BookOfAnotherModel
from errata.identity import Identity
from errata.model import where
from errata.stats.streamed import PREFIX

# As `errata.stats.corpus` has them, without torch.
_BUILT_IN: Final = ("", "auto", "broad", "mixed", "own", "prose", "primer")
# What makes two models of another size or kind. Other settings may mean one thing in a file and another once they are loaded.
_TELLING: Final = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "n_embd", "n_layer", "n_head", "d_model", "d_ff", "num_layers", "num_heads",
)  # fmt: skip


def foresee(model: str, book: str | os.PathLike[str], corpus: object = None, use: Use = "open") -> None:
    """Look at what is given to open a model with its book, as far as files say.

    Raises:
        BadModel: there is no such directory or file. BadFile: there is no such corpus.
        BookOfAnotherModel: the model's config.json is not that of the book's base.
    """
    check_use(use)
    config, path = where.config_of(model), as_path(book, "the book")
    known = isinstance(corpus, str) and (corpus in _BUILT_IN or corpus.startswith(PREFIX))
    if isinstance(corpus, str) and not known and not os.path.exists(corpus):
        raise BadFile(
            f"cannot read the corpus {corpus!r}: there is no such file; "
            "give auto, own, prose, primer, a text or JSONL file, or datasets:NAME."
        )
    if not config or not (path / "book.sqlite").is_file():
        return
    with Book.open(path, create=False, look=True) as opened:
        kept, name = opened.meta().get("identity"), opened.name
    if kept and (other := differences(config, Identity.from_json(kept))):
        who = (
            f"{name}, not {model}"
            if name != model
            else f"{name} as it was when the book was made, and it is another now"
        )
        raise BookOfAnotherModel(
            f"the book {path} corrects {who}: {', '.join(other)}; open that model, or give another book."
        )


def differences(config: Mapping[str, Any], kept: Identity) -> list[str]:
    """Return what a config.json says otherwise than a book of its base; what either leaves to defaults is not compared."""
    wanted = {**kept.settings, "vocab_size": kept.vocabulary}
    pairs = [(name, config[name], wanted[name]) for name in _TELLING if name in config and name in wanted]
    return [f"{name} is {mine!r} where the book's is {its!r}" for name, mine, its in pairs if mine != its][:4]
