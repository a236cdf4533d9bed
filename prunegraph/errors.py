"""Every error the engine raises on purpose.

    PrunegraphError
    ├── ModelError          a model cannot be read, is invalid, or cannot be written
    ├── PlanError           a plan does not belong to the model or names what is not there
    ├── BudgetError         a budget is malformed or cannot be met
    ├── UnknownNameError    a name that is not registered or not in the model
    ├── OptionError         an option of an algorithm has a value it cannot have
    ├── PluginError         a plug-in broke its contract
    ├── DataError           input data does not fit the model
    ├── MissingExtraError   a package of an optional extra is not installed
    ├── ClusterError        workers cannot be reached, or keep dying
    ├── RecipeError         a recipe cannot be read, or a step of it cannot be run
    ├── TrainingError       training diverged, or a checkpoint does not belong to it
    ├── WorseError          a trained result is worse than what the training started from
    └── ExactnessError      a result differs from the masked original

A message is one line that says what, where and what to do. The command line maps
`FAILED`, results that failed their check, to exit code 1 and every other one to 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What Python raises where a model's numbers do not fit together.
MISFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


#: What Python raises where a file of text (JSON, TOML) is damaged, or made to be.
MALFORMED = (OSError, ValueError, RecursionError, MemoryError)


class PrunegraphError(Exception):
    """Base of all errors raised on purpose."""


class ModelError(PrunegraphError):
    """A model cannot be read, is invalid, or cannot be written."""


class PlanError(PrunegraphError):
    """A plan does not belong to the model or names what is not there."""


class BudgetError(PrunegraphError):
    """A budget is malformed or cannot be met."""


class UnknownNameError(PrunegraphError):
    """A name that is not registered or not in the model."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else "."
        listed = ", ".join(known[:20]) + (
            f", ... ({len(known)} in all)" if len(known) > 20 else ""
        )
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {listed or 'none'}")


class OptionError(PrunegraphError):
    """An option of an algorithm has a value it cannot have."""


class PluginError(PrunegraphError):
    """A plug-in broke its contract."""


class DataError(PrunegraphError):
    """Input data does not fit the model."""


class MissingExtraError(PrunegraphError):
    """A package of an optional extra is not installed."""

    def __init__(self, what: str, package: str, extra: str):
        super().__init__(
            f"{what} needs the package {package}: pip install 'prunegraph[{extra}]'"
        )


class ClusterError(PrunegraphError):
    """Workers cannot be reached, or keep dying."""


class RecipeError(PrunegraphError):
    """A recipe cannot be read, or a step of it cannot be run."""


class TrainingError(PrunegraphError):
    """Training diverged, or a checkpoint does not belong to it."""


class ExactnessError(PrunegraphError):
    """A result differs from the masked original. `blame` says whose fault that is shown to be."""

    def __init__(
        self, message: str, blame: str = "A rule is wrong for this graph: please report it"
    ):
        super().__init__(message)
        self.blame = blame


class WorseError(PrunegraphError):
    """A trained result is worse than what the training started from."""


#: A result is there, and failed its check.
FAILED = (ExactnessError, WorseError)

#: Exit code and line where the user stopped a command; the code is that of shells, 128 and the number of SIGINT.
INTERRUPTED, INTERRUPTION = 130, "interrupted: nothing more is written"


def is_interrupt(error: BaseException | None) -> bool:
    """Tell whether a user stopped the command.

    At a question, click makes an Abort of it (as of the input's end); a module in C that was being imported makes an
    ImportError of it.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
