"""Long answers: WISE's hallucination passages, UnKE and EditEverything.

Data: Wang et al. (WISE), https://arxiv.org/abs/2405.14768, with passages of SelfCheckGPT, https://arxiv.org/abs/2303.08896;
Deng et al. (UnKE), https://arxiv.org/abs/2405.15349; Jiang et al. (AnyEdit), https://arxiv.org/abs/2502.05628.

UnKE and EditEverything name no subject: methods that need one cannot write them.
"""

from __future__ import annotations

from errata.data.case import Case
from errata.data.readers.raw import RawRow, build


def wise(record: RawRow) -> Case:
    """Read one passage with the sentence that should follow it, and a web text that should be continued as before."""
    return build(
        "wise-hallucination",
        record.name("case_id"),
        record.text("prompt"),
        record.text("target_new"),
        subject=record.text("subject", ""),
        unrelated=tuple((p, record.text("locality_ground_truth", "")) for p in record.texts("locality_prompt")),
    )


def unke(record: RawRow) -> Case:
    """Read one question with a paragraph as its answer, its paraphrase, and short questions about the paragraph."""
    asked, answers = record.texts("sub_question"), record.texts("sub_answer")
    if len(asked) != len(answers):
        raise record.bad("sub_answer", f"{len(answers)} answers to {len(asked)} questions.")
    parts = tuple((question, (answer,)) for question, answer in zip(asked, answers, strict=True))
    return build(
        "unke",
        record.name("id"),
        record.text("question"),
        record.text("answer"),
        rephrases=record.texts("para_question"),
        portability={"part": parts} if parts else {},
    )


def editeverything(record: RawRow) -> Case:
    """Read one question with a long answer: a proof, a program, a poem."""
    source = f"editeverything {record.text('category', '')}".strip()
    return build(source, record.name("id"), record.text("question"), record.text("answer"))
