"""VQAv2: questions about photographs, each with the answers of ten people (Goyal et al., 2017; arXiv 1612.00837).

The published validation set is the test split here, since the answers of the published test set are not public. The
headline is the official accuracy; reward data are labelled by the one that always normalises.

    pe-rlhf data prepare vqav2 --from FOLDER      v2_*.json, and the COCO images in train2014/ and val2014/
"""

from __future__ import annotations

from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.vqa.questions import ImageQuestions


@register_task("vqa/vqav2@1")
class VQAv2(ImageQuestions):
    """A photograph, a question, an answer of a word or two."""

    data = "vqav2"
    images = "COCO's images (train2014/, val2014/)"
