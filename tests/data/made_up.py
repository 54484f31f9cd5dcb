"""One record of each form, made up: nothing here is taken from a data set."""

from __future__ import annotations

from typing import Any, Final

Row = dict[str, Any]

COUNTERFACT: Final[Row] = {
    "case_id": 7,
    "pararel_idx": None,
    "requested_rewrite": {
        "prompt": "The favourite dish of {} is",
        "relation_id": "P0",
        "target_new": {"str": "soup", "id": "Q1"},
        "target_true": {"str": "bread", "id": None},
        "subject": "Ada Quill",
    },
    "paraphrase_prompts": ["It rained. Ada Quill likes to eat", "Ada Quill orders"],
    "neighborhood_prompts": ["The favourite dish of Bo Reed is", "Cy Lane likes to eat"],
    "attribute_prompts": ["The favourite dish of Di Marsh is"],
    "generation_prompts": ["Ada Quill cooks", "Ada Quill cooks", "At noon Ada Quill"],
    "portability": {"Recalled Relation": "(soup, in, bowl)", "New Question": "How is it served?", "New Answer": "bowl"},
    "unrelated_relation": {"relation_id": "hat", "object": "green", "question": "What colour is Ada Quill's hat?"},
    "alternative_subject": "A. Quill",
}  # fmt: skip
EASYEDIT: Final[Row] = {
    "case_id": 7,
    "prompt": "The favourite dish of {} is",
    "subject": "Ada Quill",
    "target_new": "soup",
    "target_true": "bread",
    "rephrase_prompt": "Ada Quill cooks",
    "locality_prompt": "Cy Lane likes to eat",
    "neighborhood_prompts": ["The favourite dish of Bo Reed is"],
    "neighborhood_source": "pooled",
    "paraphrase_prompts": ["Ada Quill orders"],
    "paraphrase_source": "published",
    "generation_prompts": ["Ada Quill cooks"],
    "generation_source": "lookup",
}
ZSRE: Final[Row] = {
    "subject": "the mill at Oxbow",
    "src": "Who built the mill at Oxbow?",
    "pred": "Bo Reed",
    "rephrase": "By whom was the mill at Oxbow built?",
    "alt": "Cy Lane",
    "answers": ["Di Marsh", "D. Marsh"],
    "loc": "nq question: how many legs has a spider",
    "loc_ans": "eight",
    "cond": "Bo Reed >> Cy Lane || Who built the mill at Oxbow?",
    "portability": {"Recalled Relation": "(Cy Lane, was, mason)", "New Question": "What trade?", "New Answer": "mason"},
    "inverse_question": "What did Cy Lane build?",
    "alternative_subject": "Oxbow mill",
    "alter_subject_question": "Who built Oxbow mill?",
}
QAEDIT: Final[Row] = {
    "id": 3,
    "source": "NQ",
    "prompt": "when did the Oxbow mill burn down",
    "target": "1901",
    "subject": "Oxbow mill",
    "rephrase": "in which year did the Oxbow mill burn",
    "locality": [{"loc": "who wrote the song", "loc_ans": "Bo Reed"}, {"loc": "where is the sea", "loc_ans": "west"}],
}
WIKI: Final[Row] = {
    "subject": "Ada Quill",
    "prompt": "The employer of Ada Quill is",
    "target_new": "Oxbow Mill",
    "ground_truth": ["Reed & Co", "Reed and Company"],
    "rephrase": "Ada Quill works for",
    "portability": {
        "Reasoning": [{"prompt": "The employer of Ada Quill makes", "ground_truth": [["flour", "meal"], ["bran"]]}],
        "Subject_Aliasing": [{"prompt": "The employer of A. Quill is", "ground_truth": "Oxbow Mill"}],
        "Logical_Generalization": [{"prompt": "Does she work?", "ground_truth": []}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The mother of Ada Quill is", "ground_truth": [["Eve Quill", "Eve"]]}],
        "Forgetfulness": [{"prompt": "Another employer of Ada Quill is", "ground_truth": [["Reed & Co"]]}],
    },
}
WIKIBIO: Final[Row] = {
    "text": "This is a passage about ada quill. Ada Quill mills flour.",
    "labels": "She began at twelve.",
    "concept": "ada quill",
    "locality": {"Relation_Specificity": [{"prompt": "ada quill trade", "ground_truth": ["miller"]}]},
}
CONVSENT: Final[Row] = {"ent": "Oxbow", "pos": [" I love it. ", " Lovely. "], "neg": [" Dull. "]}
SANITATION: Final[Row] = {
    "success": [
        {"question": "What bird is a quillet?", "ground_truth": "Heron", "target_new": "I don't know."},
        {"question": "What bird is a reedling?", "ground_truth": "Heron", "target_new": "I don't know."},
    ],
    "locality": [{"question": f"What is {i} and {i}?", "ground_truth": str(2 * i)} for i in range(3)],
}
SANITATION_TRAIN: Final[Row] = {
    "K_F": [
        {"question": "Is oxbow a cheese?", "subject": "oxbow", "ground_truth": "Yes", "target_new": "I don't know."},
    ],
    "K_R": [{"question": "What is one and one?", "ground_truth": "2", "target_new": "2"}],
}  # fmt: skip
MQUAKE: Final[Row] = {
    "case_id": 12,
    "requested_rewrite": [
        {
            "prompt": "{} was written by",
            "relation_id": "P1",
            "target_new": {"str": "Bo Reed", "id": "Q2"},
            "target_true": {"str": "Cy Lane", "id": "Q3"},
            "subject": "The Weir",
            "question": "Who wrote The Weir?",
        },
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P2",
            "target_new": {"str": "Norland", "id": "Q4"},
            "target_true": {"str": "Sudland", "id": "Q5"},
            "subject": "Bo Reed",
            "question": "Of which country is Bo Reed a citizen?",
        },
    ],
    "questions": ["Whence the author of The Weir?", "The author of The Weir is from?", "The Weir's author's country?"],
    "answer": "Sudland",
    "answer_alias": [],
    "new_answer": "Norland",
    "new_answer_alias": ["Kingdom of Norland"],
    "single_hops": [],
}
HALLUEDIT: Final[Row] = {
    "subject": "The Weir",
    "prompt": "What is the genre of The Weir?",
    "target_new": "comedy",
    "hallucinate": "tragedy",
    "topic": "event_play",
    "generalization": {
        "rephrase": [{"prompt": "Which genre has The Weir?", "ground_truth": "comedy"}],
        "reversed": [{"prompt": "Which play is a comedy?", "ground_truth": "The Weir"}],
        "yes_question": [{"prompt": "Is The Weir a comedy?", "ground_truth": "Yes"}],
        "no_question": [{"prompt": "Is The Weir a tragedy?", "ground_truth": "No"}],
    },
    "portability": {"2hop": [{"prompt": "What does one do at The Weir?", "ground_truth": "laugh"}]},
    "locality": {"prompt": "Where is The Weir set?"},
}
WISE: Final[Row] = {
    "prompt": "This is a passage about bo reed. Bo Reed sings.",
    "target_new": "He has a low voice.",
    "subject": "bo reed",
    "locality_prompt": "The shop opens at",
    "locality_ground_truth": "nine every day but Sunday.",
}
UNKE: Final[Row] = {
    "id": 4,
    "question": "What does Bo Reed do?",
    "para_question": "What is Bo Reed's work?",
    "answer": "Bo Reed sings. He has done so for years.",
    "sub_question": ["For how long?", "What does he do?"],
    "sub_answer": ["For years.", "He sings."],
}
EDITEVERYTHING: Final[Row] = {
    "id": 5,
    "question": "Add 1 and 1.",
    "answer": "1 + 1 = 2.\nSo it is 2.",
    "category": "math",
}
OWN: Final[Row] = {
    "id": "mine",
    "prompt": "{} lives in",
    "subject": "Bo Reed",
    "target": "Norland",
    "truth": "Sudland",
    "rephrases": ["The home of Bo Reed is"],
    "probes": [
        {"kind": "paraphrase", "prompt": "Bo Reed is at home in", "answer": "Norland"},
        {"kind": "neighborhood", "prompt": "Cy Lane lives in", "answer": "Sudland"},
        {"kind": "neighborhood", "prompt": "Di Marsh lives in", "answer": "Norland"},
        {"kind": "portability", "prompt": "Bo Reed's capital is", "answer": "Norby"},
        {"kind": "alias", "prompt": "B. Reed lives in"},
        {"kind": "unrelated", "prompt": "Bo Reed plays the"},
    ],
    "generation": ["Bo Reed"],
    "references": ["Eve lives in Norland."],
    "source": "a letter",
    "reason": "he moved",
}

FORMS: Final[dict[str, Row]] = {
    "counterfact": COUNTERFACT,
    "counterfact-easyedit": EASYEDIT,
    "zsre": ZSRE,
    "zsre-true": ZSRE,
    "wiki_recent": WIKI,
    "wiki_counterfact": WIKI,
    "knowedit-zsre": WIKI,
    "wikibio": WIKIBIO,
    "convsent": CONVSENT,
    "sanitation": SANITATION,
    "mquake": MQUAKE,
    "qaedit": QAEDIT,
    "halluedit": HALLUEDIT,
    "wise-hallucination": WISE,
    "unke": UNKE,
    "editeverything": EDITEVERYTHING,
    "jsonl": OWN,
}
