"""TextVQA: questions about text in photographs, each with the answers of ten people (Singh et al., 2019; 1904.08920).

The published validation set is the test split, since the answers of the published test set are not public.

    pe-rlhf data prepare textvqa --from FOLDER      TextVQA_0.5.1_{train,val}.json and train_images/
"""

from __future__ import annotations

from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.vqa.questions import ImageQuestions, tuning


@register_task("vqa/textvqa@1")
class TextVQA(ImageQuestions):
    """A photograph with something to read."""

    data = "textvqa"
    images = "the Open Images pictures (train_images/)"
    tuning = tuning(max_tokens=16)
