"""The words every part of the SDK speaks: messages, samples, outcomes, and the arrays of a batch.

Axis letters, used in every shape annotation of the project:

    B prompts · G completions per prompt · L prompt length · T completion length
    S = L + G·T row length · V vocabulary · D model width · H heads · K key/value heads · C head width
    R adapter rank · E adapters in a bank · A axes of a position: 1, or 3 where they are multimodal
    N views of a row's images · P patches of a view · X numbers in a patch · M image tokens of a row
    W numbers of an image token: D, or several D side by side
    K columns of a packed row that are asked about (in attention: key/value heads, as above)

Nothing here imports jax: listing tasks must stay instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

    Array = Any  # a batch is made of NumPy arrays on the host, and of JAX arrays inside a jitted function

# --- conversations ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A piece of text in a message."""

    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True)
class Image:
    """A picture in a message, opened only when a processor needs its pixels.

    `source` is a path, the encoded bytes of a PNG or JPEG, or a PIL image.
    """

    source: Any
    type: Literal["image"] = "image"


Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `content` is a string, or a sequence of Text and Image parts."""

    role: Role
    content: str | Sequence[Text | Image]

    @property
    def parts(self) -> Sequence[Text | Image]:
        return (Text(self.content),) if isinstance(self.content, str) else self.content


# --- tasks, environments, evaluators ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One item of a task.

    `id` is stable across runs (the key for resuming and for paired comparison); `cluster` names what several samples
    share (an image, an app, an episode), for honest standard errors; `target` is the ground truth, never shown to a
    policy or to a reward model.
    """

    id: str
    messages: Sequence[Message]
    target: Any = None
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


Reply = str | Sequence[Text | Image]
"""What answers a prompt: a text, or parts of which some are pictures."""


@dataclass(frozen=True)
class Preference:
    """Two replies to one prompt.

    `probability` is that of `chosen` being the better one: 1 for a hard label, 0.5 for a tie, in between for labels
    that are uncertain (several workers, an AI judge). `margin` (0 or more, no unit) says by how much; it counts as much
    as the reward model's settings let it. `metadata` is what accuracies are broken down by: "confidence", "domain".
    """

    messages: Sequence[Message]
    chosen: Reply
    rejected: Reply
    probability: float = 1.0
    margin: float = 0.0
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rated:
    """One reply to a prompt, and how right it is: 1 right, 0 wrong, in between for soft labels (VQA accuracy)."""

    messages: Sequence[Message]
    reply: Reply
    label: float
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What an environment answers: messages to append to the conversation, and the Gymnasium signals.

    `terminated`: the task itself ended, do not bootstrap. `truncated`: it was ended from outside, bootstrap. A budget
    of replies that success is judged by is part of the task: `info["out_of_steps"]` tells that it was used up.
    `info` carries `action_error` for an action that could not be carried out: a bad action is never an exception.
    """

    observation: Sequence[Message]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a policy did with a sample: its replies, and the environment's steps when there was one.

    `repeat` counts the tries at a sample, from 0. `unanswered`: why there is no reply, or no further one, where that is
    not the policy's doing, as of a server that failed.
    """

    sample: Sample
    replies: Sequence[str]
    steps: Sequence[Step] = ()
    repeat: int = 0
    unanswered: str | None = None


@dataclass(frozen=True)
class Score:
    """A verdict. `value` None means "could not be scored": it is counted and shown, never averaged as zero."""

    value: float | None
    why: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """One episode at a time, on one thread; needed only by tasks of several turns."""

    def reset(self, sample: Sample, *, seed: int) -> Step: ...

    def step(self, reply: str) -> Step: ...

    def close(self) -> None: ...


@runtime_checkable
class Task(Protocol):
    """Data, prompt and scoring. `evaluators` are ids; the first one is the headline metric."""

    @property
    def evaluators(self) -> Sequence[str]: ...

    def samples(self, split: str, *, seed: int = 0) -> Iterable[Sample]: ...

    def environment(self) -> Environment | None: ...

    def solve(self, sample: Sample) -> Sequence[str] | None: ...


@runtime_checkable
class PreferenceTask(Task, Protocol):
    """A task that also brings pairs to train a reward model, or the policy itself, on."""

    def preferences(self, split: str, *, seed: int = 0) -> Iterable[Preference]: ...


@runtime_checkable
class RatedTask(Task, Protocol):
    """A task that brings single replies, right or wrong, to train a reward model on."""

    def ratings(self, split: str, *, seed: int = 0) -> Iterable[Rated]: ...


@runtime_checkable
class Evaluator(Protocol):
    """Outcomes in, one score each out. Rules, reward models and judges all have this shape, so each can be a reward.

    An evaluator may have an attribute `bounds`, as (0, 1): what its values lie between. A value outside is refused
    then, and an interval can be told where all values are the same. With `more_is_better = False` no best of several
    tries is told.
    """

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]: ...


class Verdict(NamedTuple):
    """A judge's answer: a probability of each choice, of sum 1, or None and why there is none."""

    probabilities: Mapping[str, float] | None
    why: str = ""


@runtime_checkable
class Judge(Protocol):
    """Answers questions of multiple choice. `id` tells one judge from another: it is in logs, and keys the cache."""

    @property
    def id(self) -> str: ...

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """A verdict on each conversation. What cannot be asked or read is a verdict of None, never an exception."""
        ...


@runtime_checkable
class Rewards(Protocol):
    """Scores replies to conversations. `name` tells one reward model from another in logs."""

    @property
    def name(self) -> str: ...

    def score(self, conversations: Sequence[Sequence[Message]], replies: Sequence[Reply]) -> Iterable[float]:
        """One finite number a reply. Raises PromptTooLong and ImageError for what cannot be read."""
        ...


# --- batches ----------------------------------------------------------------------------------------------------


class Pixels(NamedTuple):
    """Views of images cut into patches in block order, not yet looked at by the vision tower.

    `grid`: patches down and across each view, (0, 0) for a view that is padding.
    """

    patches: UInt8[Array, "B N P X"]
    grid: Int[Array, "B N 2"]


class Merged(NamedTuple):
    """Images the tower has seen: for each image token of a row the patches that it is made of, not projected yet."""

    vectors: Float[Array, "B M V"]


class Features(NamedTuple):
    """Images the tower has looked at: a vector for each image token of a row, in their order."""

    vectors: Float[Array, "B M W"]


Pictures = Pixels | Merged | Features
"""Images of a batch, as far as they have been looked at."""


class Prompts(NamedTuple):
    """Prompts padded on the left, so that the last prompt token always stands in column L - 1.

    `positions` None: tokens are counted. Multimodal positions need to be told, since they depend on image shapes.
    """

    tokens: Int[Array, "B L"]
    mask: Bool[Array, "B L"]
    images: Pictures | None = None
    positions: Int[Array, "B L A"] | None = None


class Completions(NamedTuple):
    """Completions padded on the right. `mask` is true where the policy chose the token: the stop token included."""

    tokens: Int[Array, "B G T"]
    mask: Bool[Array, "B G T"]


class Packed(NamedTuple):
    """Several conversations in one row, each of which sees itself only: [prompt reply | prompt reply | .. | padding].

    Those that begin alike may have their beginning once: [prompt | reply | reply | ..]. `leave`: the column from which
    on a token is seen no more, -1 for padding. `replied`: the token is of a reply. `asked`: the columns that a loss
    reads, which are those of reply tokens, or the last one of each reply; `before`: the columns that say what is to
    stand there; `mask`: which of them are real.
    """

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B S A"]
    leave: Int[Array, "B S"]
    replied: Bool[Array, "B S"]
    asked: Int[Array, "B K"]
    before: Int[Array, "B K"]
    mask: Bool[Array, "B K"]
    images: Pictures | None = None
