"""A conversation with a model in which a wrong answer is corrected: say, correct, take back.

talk = Conversation(editor)
talk.say("What is the capital of France?").text      # "The capital of France is Paris."
talk.correct("Lyon")                                 # writes it as an edit, and takes the wrong reply out
talk.again().text                                    # "The capital of France is Lyon."
talk.undo()
"""

from __future__ import annotations

import re
from typing import Any, Final

from errata.edit import Edit, Label
from errata.editing.answering import Answer
from errata.editing.editor import Editor
from errata.errors import InputError
from errata.fact import Fact, Message
from errata.model.tokens import Room

TOKENS: Final = 256  # longest reply
_LINES: Final = 1_000_000  # a reply may have as many lines as it likes
# A name: words with a capital, and small ones between two of these, such as "War and Peace".
_NAME: Final = re.compile(
    r"[^\W\d_a-z][\w'’.-]*(?:\s+(?:(?:of|and|the|de|la|van|von|du|in|on|to|a)\s+){0,2}[^\W_a-z][\w'’-]*)*"
)
_ASKS: Final = frozenset(
    "who what where when which why how whose whom is are was were do does did can could in on at of the tell name".split()
)


class Conversation:
    """Turns of a user and a model, and the edits written meanwhile.

    Args:
        editor: the model and its book. method, settings: what edits are written with.
        system: a message that stands before the first turn. tokens: of the longest reply.

    Attributes:
        turns: (role, content) so far, the system's message first. A model without a chat template has none: every prompt
            stands alone.
    """

    def __init__(
        self, editor: Editor, method: str = "rome", *, system: str = "", tokens: int = TOKENS, **settings: Any
    ) -> None:
        self._editor, self._method, self._settings = editor, method, settings
        self._start: tuple[Message, ...] = (("system", system),) if system else ()
        self._tokens, self._asked = tokens, ""
        self._written: list[str] = []
        self.chats = editor.lm.tokens.chat.exists
        self.turns: tuple[Message, ...] = self._start

    def say(self, text: str) -> Answer:
        """Return the model's reply to the user's next turn, and go on from there."""
        room = Room(self._tokens, _LINES if self.chats else 1)
        answer = self._editor.ask(text, chat=self.chats, messages=self.turns, max_new_tokens=room, top=0)
        self._asked = text
        if self.chats:
            self.turns = (*self.turns, ("user", text), ("assistant", answer.text.strip()))
        return answer

    def again(self) -> Answer:
        """Return the model's reply to the last turn, asked once more instead; raises InputError at the start."""
        if not self._asked:
            raise InputError("nothing has been asked yet: ask something first.")
        self.turns = self.turns[:-2] if self.chats else self.turns
        return self.say(self._asked)

    def correct(self, target: str, subject: str = "", label: Label | None = None) -> Edit:
        """Write that the last question is answered so, and return the edit.

        Args:
            subject: what it is about, as the question has it; the last name in the question unless given.

        Raises:
            InputError: nothing has been asked yet, or no name stands in the question. Otherwise as `Editor.write`.
        """
        if not self._asked:
            raise InputError("nothing has been asked yet: ask something first, then correct the answer.")
        subject = subject or subject_of(self._asked)
        if not subject:
            raise InputError("no name stands in the question: say what it is about, as in /edit SUBJECT -> ANSWER.")
        fact = Fact(prompt=self._asked, subject=subject, target=target, chat=self.chats, messages=self._begun())
        (edit,) = self._editor.write_all([fact], self._method, label=label, **self._settings)
        self._written.append(edit.id)
        return edit

    def _begun(self) -> tuple[Message, ...]:
        """Return what a fact stands after: the system's message, not what else was talked about."""
        return (*self._start, ("user", self._asked)) if self._start and self.chats else ()

    def undo(self) -> str:
        """Drop the last edit of this conversation that stands, and return its id; raises InputError where there is none."""
        if not self._written:
            raise InputError("no edit of this conversation stands: errata drop takes back older ones.")
        self._editor.drop(self._written[-1], reason="undone in the conversation")
        return self._written.pop()

    def forget(self) -> None:
        """Begin again, with nothing said before."""
        self.turns, self._asked = self._start, ""


def subject_of(question: str) -> str:
    """Return what a question is likeliest about: the last name in it; "" where none stands there."""
    names = []
    for match in _NAME.finditer(question):
        words = match.group().rstrip(".").split()
        while match.start() == 0 and words and re.split("['’]", words[0].casefold())[0] in _ASKS:
            words = words[1:]
        names += [" ".join(words)] if words else []
    return names[-1] if names else ""
