"""Anthropic HH, helpful: the more helpful of two answers in a conversation (Bai et al., 2022; arXiv 2204.05862).

The headline, ROUGE-L against the chosen answer, is likeness of wording and not helpfulness. Some texts are upsetting.

    pe-rlhf data prepare hh --from FOLDER      helpful-base, helpful-online, helpful-rejection-sampled: what there is
"""

from __future__ import annotations

from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.text.hh import HH


@register_task("text/helpful-hh@1")
class HelpfulHH(HH):
    """Conversations in which people asked for help."""

    subsets = "helpful"
