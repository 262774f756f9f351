"""Does it conform? Checks for the authors of tasks, environments and evaluators, and toys to try things on.

Every check returns a list of problems in words, empty when there is none: `assert check_task("my.py:Task") == []` is a
whole test. What the checked code raises becomes a problem too, under the name of the method that raised it.
"""

from pe_rlhf_mm.testing.environments import check_env
from pe_rlhf_mm.testing.evaluators import check_evaluator
from pe_rlhf_mm.testing.tasks import check_task
from pe_rlhf_mm.testing.toys import ToyEnvironment, ToyTask

__all__ = ["ToyEnvironment", "ToyTask", "check_env", "check_evaluator", "check_task"]
