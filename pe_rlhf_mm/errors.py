"""Errors a user can act on: they end a command with exit code 2 and one paragraph, never a stack trace."""


class UserError(Exception):
    """Something the user gave cannot be used; the message says what, where, what was expected and what to do."""


class ImageError(UserError):
    """An image that cannot be read, or is too large to be decoded safely."""


class PromptTooLong(UserError):
    """A prompt that does not fit the model's context together with its completion."""


class Unanswered(UserError):
    """A model behind a server gave no reply, for the reason that is said."""


class OutOfRange(UserError, ValueError):
    """A setting outside its range."""


class TrainingDiverged(UserError):
    """A loss or a gradient that is no longer finite."""


class Terminated(KeyboardInterrupt):
    """Somebody asked the process to end (SIGTERM): it ends as by Ctrl-C, but a training keeps what it has reached."""
