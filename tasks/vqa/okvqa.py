"""OK-VQA: questions about photographs that need to be known from elsewhere (Marino et al., 2019; arXiv 1906.00067).

Five people answered each question, and each answer counts twice, which makes the ten of VQA accuracy. (Some papers
compare stemmed answers; the numbers here are of the official VQA evaluator.) The published validation set is the test
split.

    pe-rlhf data prepare okvqa --from FOLDER      OpenEnded_mscoco_*.json, mscoco_*.json, train2014/ and val2014/
"""

from __future__ import annotations

from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.vqa.questions import ImageQuestions


@register_task("vqa/okvqa@1")
class OKVQA(ImageQuestions):
    """A photograph, and a question that it alone does not answer."""

    data = "okvqa"
    images = "COCO's images (train2014/, val2014/)"
