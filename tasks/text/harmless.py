"""Anthropic HH, harmless: the less harmful of two answers in a conversation (Bai et al., 2022; arXiv 2204.05862).

The data are upsetting by design: people tried to get harmful answers. They are made to learn what NOT to say, and are
no model of a good conversation. The headline, ROUGE-L against the chosen answer, is likeness of wording and says
nothing about harm: a harmful reply can score high, and a refusal in other words low. A harmless rate needs a judge.

    pe-rlhf data prepare hh --from FOLDER      harmless-base/{train,test}.jsonl.gz
"""

from __future__ import annotations

from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.hh import HH


@register_task("text/harmless@1")
class Harmless(HH):
    """Conversations in which people asked for harm."""

    subsets = "harmless"
