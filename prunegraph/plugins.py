"""Plug-ins: code of others that registers algorithms, front ends and rules.

It comes from entry points of installed packages, or from a file or module that the user
names. Whatever is registered remembers where it comes from, and what goes wrong in it is one
PluginError that says so.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from prunegraph.errors import (
    BudgetError,
    DataError,
    MissingExtraError,
    ModelError,
    OptionError,
    PluginError,
)

#: Where the project's own things come from.
BUILT_IN = "built in"

#: Errors that say what is wrong already: with what the user gave, or with a plug-in.
INPUT_ERRORS = (
    BudgetError,
    DataError,
    MissingExtraError,
    ModelError,
    OptionError,
    PluginError,
)

#: A program of any language as an algorithm: alone, or as the option of a method (`cycles:algorithm=exec:...`).
_PROGRAM = re.compile(r"(^|[=:,]\s*)exec:")

#: Characters of a foreign message that are repeated.
MESSAGE = 300

_current: ContextVar[str | None] = ContextVar("origin", default=None)
_refused: ContextVar[str | None] = ContextVar("refused", default=None)
_contributions: Counter[str] = Counter()


# -- where things come from ---------------------------------------------------------------


@contextmanager
def coming_from(origin: str) -> Iterator[None]:
    """Say what is registered meanwhile comes from there."""
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)


def note_origin(thing: object) -> str:
    """Where a thing that is being registered comes from: the plug-in at work, else its module.

    What our own modules register is built in, also where it is a plug-in that is the first to import them.
    """
    module = str(getattr(thing, "__module__", None) or "__main__")
    origin = _current.get() or (BUILT_IN if _is_ours(module) else f"module {module}")
    if _is_ours(_imported_now()):
        origin = BUILT_IN
    _contributions[origin] += 1
    return origin


def _is_ours(module: str) -> bool:
    return module == "prunegraph" or module.startswith("prunegraph.")


def _imported_now() -> str:
    """The module whose import is the innermost one at work, or the program."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


# -- loading ------------------------------------------------------------------------------


def load(source: str) -> None:
    """Import a plug-in: a Python file, or a module by its name. Doing so twice does nothing.

    Raises:
        PluginError: it is not there, fails, or registers nothing.
    """
    path = Path(source)
    if source.endswith(".py") or os.sep in source or path.is_file():
        _load_file(path)
        return
    may_run(f"module {source}")
    known = source in sys.modules
    try:
        _run(source, f"module {source}", lambda: importlib.import_module(source))
    except PluginError as error:
        beside = Path(f"{source}.py")
        hint = f"; did you mean the file {beside}?" if beside.is_file() else ""
        raise PluginError(f"{error}{hint}") from error
    if not known:
        _must_contribute(source, f"module {source}")


def _load_file(path: Path) -> None:
    try:
        _must_be_python(path)
    except PluginError as error:
        raise PluginError(f"plug-in {error}") from None
    if str(path.resolve()) in sys.modules:
        return
    _run(str(path), f"file {path}", functools.partial(module_of, path))
    try:
        _must_contribute(str(path), f"file {path}")
    except PluginError:
        del sys.modules[str(path.resolve())]
        raise


# -- people's Python files: run here, and nowhere else ------------------------------------


def module_of(path: Path, *, again: bool = False, text: str | None = None) -> ModuleType:
    """The module that a Python file of the user's makes: run once, or `again`.

    Args:
        path: of the file.
        again: run it even if it has been, as it may have changed since.
        text: what the file holds, where it is not on this machine; always run.

    Raises:
        PluginError: it is no Python file, or is not there.
        Exception: whatever the file's code raises.
    """
    may_run(str(path))
    # The path is the module's name: unique, and it hides no other module.
    name = str(path.resolve())
    if name in sys.modules and not again and text is None:
        return sys.modules[name]
    _must_be_python(path, exists=text is None)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a name that ends with .py"
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module
    try:
        if text is None:
            spec.loader.exec_module(module)
        else:
            exec(compile(text, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _must_be_python(path: Path, *, exists: bool = True) -> None:
    """Raise PluginError for what is no Python file, or, unless it need not exist, is not there."""
    if path.is_dir():
        raise PluginError(f"{path} is a folder; give a .py file, or the name of a module")
    if exists and not path.is_file():
        raise PluginError(f"{path}: no such file")
    if path.suffix != ".py":
        raise PluginError(f"{path} is no Python file (.py)")


@contextmanager
def _loading(label: str) -> Iterator[None]:
    """Turn what people's code raises while it is loaded into a PluginError."""
    try:
        yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{label} cannot be loaded: {reported(error)}") from error


@contextmanager
def no_code(why: str) -> Iterator[None]:
    """Refuse to run anybody's code meanwhile: PluginErrors that begin with `why`."""
    token = _refused.set(why)
    try:
        yield
    finally:
        _refused.reset(token)


def may_run(what: str) -> None:
    """Raise PluginError where people's code must not be run. To be asked before any is."""
    if _refused.get() is not None:
        raise PluginError(f"{_refused.get()}: {what}")


def function(given: str, text: str | None = None) -> Callable[..., Any]:
    """The function that `file.py:function` names; `text` stands in for a file that is not on this machine.

    Raises:
        PluginError: there is no such file or function, or the file fails.
    """
    path, _, name = given.rpartition(":")
    with _loading(path):
        module = module_of(Path(path), again=True, text=text)
    result = getattr(module, name, None)
    if not callable(result):
        raise PluginError(f"{path}: has no function {name!r}")
    return cast("Callable[..., Any]", result)


def code_in(given: str) -> bool:
    """Whether an option's value names code: `file.py:function`, `exec:...`."""
    return ".py:" in given or _PROGRAM.search(given) is not None


def _run(label: str, origin: str, work: Callable[[], object]) -> object:
    """Import code of a plug-in."""
    _contributions.pop(origin, None)
    with coming_from(origin), _loading(f"plug-in {label}"):
        try:
            return work()
        except PluginError as error:
            raise PluginError(f"plug-in {label}: {error}") from error


def _must_contribute(label: str, origin: str) -> None:
    if not _contributions[origin]:
        raise PluginError(
            f'plug-in {label} registers nothing; decorate a function with @pg.criterion("name"), '
            '@pg.selector("name") or @pg.frontend(".suffix"), or register a rule'
        )


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Entry points of a group in all installed packages."""
    return _installed(group, tuple(sys.path))


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def package(point: EntryPoint) -> str:
    """The package that an entry point belongs to, as an origin."""
    return (
        f"package {point.dist.name} {point.dist.version}"
        if point.dist
        else f"module {point.module}"
    )


def load_point(point: EntryPoint) -> object:
    """Say what an entry point names. Raises PluginError."""
    return _run(
        f"{package(point)} ({point.name} = {point.value})", package(point), point.load
    )


# -- checks and blame ---------------------------------------------------------------------


def check_parameters(function: object, names: Sequence[str], what: str) -> None:
    """Raise PluginError for what cannot be called with that many arguments."""
    wanted = f"a function ({', '.join(names)})"
    if not callable(function):
        raise PluginError(f"{what} must be {wanted}, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in function that does not tell
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise PluginError(f"{what} must be {wanted}, not {signature}") from None


@contextmanager
def attributed(what: str, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors in a plug-in's code into a PluginError that names it.

    Errors about what the user gave (data, budget, model) pass, and those in `passes`.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (*INPUT_ERRORS, *passes)):
            raise
        raise PluginError(f"{what} failed: {reported(error)}") from error


def reported(error: BaseException) -> str:
    """An error in one line: type, message, and the line of the plug-in at which it came up."""
    text = " ".join(str(error).split())[:MESSAGE]
    lines = (
        f"{Path(frame.f_code.co_filename).name}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_own(frame.f_globals.get("__name__", ""))
    )
    where = next(lines, "")
    return f"{type(error).__name__}: {text}" + (f" ({where})" if where else "")


def _is_own(module: str) -> bool:
    return module.startswith(("prunegraph.", "importlib", "_frozen_importlib"))


def guard(
    function: Callable[..., Any], what: str, passes: tuple[type[Exception], ...] = ()
) -> Callable[..., Any]:
    """A function of a plug-in whose errors name it."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with attributed(what, passes):
            return function(*args)

    return call
