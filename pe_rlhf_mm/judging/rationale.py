"""Judges that write down their reasons before they choose: a chain of thought, in two steps.

The judge is asked for its reasons first, greedily; its choice is then read with these in the conversation, as it is
read without. Source: Lee et al., 2023 (arXiv 2309.00267), section 2.1 and the appendix on chain-of-thought rationales.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.errors import Unanswered, UserError
from pe_rlhf_mm.judging.endpoint import CALLS, TOKENS, Endpoint
from pe_rlhf_mm.judging.local import LocalJudge
from pe_rlhf_mm.rollout.endpoint import text_of
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.types import Message, Text, Verdict

LOCAL_TOKENS = 512
"""Of the reasons of a model in this process at most, as in the paper, and at most a quarter of its context."""
WHY = "\n\nDo not answer yet. First write down your reasons, step by step, in a few sentences."
ANSWER = "Now answer with {choices}, and nothing else."
NAMED = "{id} with a rationale"
NOTHING = Verdict(None, "it wrote no reasons")


def asking_why(conversation: Sequence[Message]) -> list[Message]:
    """A question, and the request to write down reasons before it is answered."""
    *before, last = conversation
    return [*before, Message(last.role, [*last.parts, Text(WHY)])]


def answered_why(conversation: Sequence[Message], reasons: str, choices: Sequence[str]) -> list[Message]:
    """The same with the reasons that were written, and the request to choose."""
    answer = ANSWER.format(choices=" or ".join(choices))
    return [*asking_why(conversation), Message("assistant", reasons), Message("user", answer)]


class ReasoningEndpoint(Endpoint):
    """A model that a server offers: two questions in place of one."""

    def __init__(self, reference: str, *, calls: int = CALLS, max_tokens: int = TOKENS):
        """As `Endpoint`; `max_tokens`: of the reasons, and of the answer."""
        super().__init__(reference, calls=calls, max_tokens=max_tokens)
        self.id = NAMED.format(id=reference)

    def _verdict(self, conversation: Sequence[Message], choices: Sequence[str]) -> Verdict:
        try:
            said = self._server.complete(asking_why(conversation), self._asked)
            reasons = text_of(said)
        except Unanswered as error:
            return Verdict(None, str(error))
        if not reasons.strip():
            return NOTHING
        return super()._verdict(answered_why(conversation, reasons, choices), choices)


class ReasoningJudge:
    """A Policy that writes its reasons, and is then asked how likely each choice is."""

    def __init__(self, policy: Policy):
        self._policy, self._judge = policy, LocalJudge(policy)
        self._tokens = min(LOCAL_TOKENS, policy.processor.config.context // 4)

    def __repr__(self) -> str:
        return f"ReasoningJudge({self._policy!r})"

    @property
    def id(self) -> str:
        """As without, and that it reasons."""
        return NAMED.format(id=self._judge.id)

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """The probabilities of the choices; None for a conversation that is too long for the model."""
        written = self._written([asking_why(conversation) for conversation in conversations])
        asked = [
            answered_why(conversation, reasons, choices)
            for conversation, reasons in zip(conversations, written, strict=True)
            if isinstance(reasons, str)
        ]
        verdicts = iter(self._judge.choose(asked, choices) if asked else ())
        return [reasons if isinstance(reasons, Verdict) else next(verdicts) for reasons in written]

    def _written(self, conversations: Sequence[Sequence[Message]]) -> list[str | Verdict]:
        """By halves where something cannot be read, so that one that is too long says so alone."""
        try:
            replies = self._policy.generate(conversations, max_tokens=self._tokens)
        except UserError as error:
            if len(conversations) == 1:
                return [Verdict(None, f"it could not be asked: {error}")]
            half = len(conversations) // 2
            return [*self._written(conversations[:half]), *self._written(conversations[half:])]
        return [reasons if reasons.strip() else NOTHING for (reasons,) in replies]
