"""Chat templates: a turn of a conversation as the text a chat model reads, and where in it the prompt stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Final

from errata.errors import BadFact, UnsupportedModel
from errata.fact import Message
from errata.model.query import RENDERED, Query

# What a template prints as today's date, so that an edit is the same on every day; that of Llama 3's own default. A macro in
# front of the template takes the place of transformers' function: no function may be handed to a template. Jinja drops the
# newline behind it, so that what follows stands at the beginning of a line as before.
_DAY: Final = date(2024, 7, 26)
_CODES: Final = {f"%{letter}": _DAY.strftime(f"%{letter}") for letter in "aAbBcdHIjmMpSUwWxXyYzZ"}
_CLOCK: Final = (
    f"{{%- macro strftime_now(format) -%}}{{%- set ns = namespace(text=format.replace('%-', '%')) -%}}"
    f"{{%- for code, said in {list(_CODES.items())} -%}}{{%- set ns.text = ns.text.replace(code, said) -%}}{{%- endfor -%}}"
    "{{- ns.text -}}{%- endmacro %}\n"
)
_MARK: Final = "Lorem7ipsum"  # stands where a text of one's own would
_QUESTIONS: Final = ("?", "？", "؟", "՞")


class ChatTemplate:
    """The chat template of a tokenizer; it runs in transformers' sandbox and never brings code of its own.

    Args:
        tokenizer: never modified. decoder: whether its model is one; others have no conversation.
    """

    def __init__(self, tokenizer: Any, decoder: bool) -> None:
        self._tokenizer, self._decoder = tokenizer, decoder
        self._between: str | None = None  # what stands before a reply, once that has been looked at

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self._decoder and bool(getattr(self._tokenizer, "chat_template", None))

    def invites(self, prompt: str) -> bool:
        """Return whether a prompt is best asked as a user's turn: a question, where there is a template."""
        return self.exists and prompt.rstrip().endswith(_QUESTIONS)

    def rendered(self, query: Query) -> Query:
        """Return a query as the text the model reads: of a user's turn all that leads to the reply.

        Raises:
            UnsupportedModel: there is no template.
            BadFact: it refuses the conversation, or does not write the prompt as it stands.
        """
        if not query.turn:
            return replace(query, prompt=query.prompt + query.begun, begun="") if query.begun else query
        if not self.exists:
            raise UnsupportedModel(
                "this model has no chat template, so nothing can be asked in a conversation: ask it plainly, or give its "
                "tokenizer a template (chat_template.jinja)."
            )
        text = self._text((*query.earlier, ("user", query.prompt)))
        begin = self._begin(text, query)
        joint = self._joint() if query.joint is None and not query.begun else query.joint
        span = query.span
        if span is not None:
            shift = begin if span[0] < len(query.prompt) else len(text) - len(query.prompt)
            span = (span[0] + shift, span[1] + shift)
        return Query(text + query.begun, query.answer, span, joint, RENDERED)

    def _begin(self, text: str, query: Query) -> int:
        """Return where the prompt begins, or would: a template may take spaces off both ends of a turn."""
        bare = query.prompt.strip()
        before = query.prompt.index(bare)
        place = self._text((*query.earlier, ("user", _MARK))).find(_MARK)
        for begin in (place - before, place):
            if text[begin + before : begin + before + len(bare)] == bare:
                return begin
        if bare not in text:
            raise BadFact(
                f"the chat template of this model does not write {query.prompt!r} as it stands: change its words."
            )
        return text.rfind(bare) - before

    def _text(self, turns: Sequence[Message], reply: str | None = None) -> str:
        """Return a conversation as text, up to where the model's turn begins, or with its reply.

        A template that lets a model think aloud first is asked not to: what follows is the answer.
        """
        messages = [{"role": role, "content": content} for role, content in turns]
        messages += [] if reply is None else [{"role": "assistant", "content": reply}]
        try:
            template = self._tokenizer.get_chat_template()
            made = self._tokenizer.apply_chat_template(
                messages,
                chat_template=f"{_CLOCK}{template}" if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=reply is None,
                enable_thinking=False,
            )
        except Exception as error:  # whatever a template raises: a role it does not know, turns that do not alternate
            said = " ".join(str(error).split())[:160]
            raise BadFact(
                f"the chat template of this model refuses this conversation ({said}): change its turns."
            ) from error
        return str(made)

    def _joint(self) -> str | None:
        """Return what the template writes between where the model's turn begins and its reply; None if that cannot be seen."""
        if self._between is None:
            turns = (("user", _MARK),)
            text, whole = self._text(turns), self._text(turns, reply=_MARK)
            place = whole.find(_MARK, len(text)) if whole.startswith(text) else -1
            self._between = whole[len(text) : place] if place >= 0 else "?"
        return self._between if self._between in ("", " ") else None
