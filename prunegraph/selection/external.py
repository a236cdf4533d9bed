"""Algorithms in other languages: a program that reads groups and writes a plan."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from prunegraph import plugins
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.outline import outline
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import MALFORMED, OptionError, PlanError, PluginError
from prunegraph.graph.layer_names import named_layers
from prunegraph.selection.budget import Budget
from prunegraph.selection.criteria.base import Context
from prunegraph.selection.plan import Plan, parse_json

#: Bytes of a program's output that are read at most.
MAX_OUTPUT = 2**28

#: Bytes that are read at a time.
CHUNK = 2**16

#: Bytes of what a program says last, from which an error repeats a line.
TAIL = 2**12

#: Lines that say what went wrong; some interpreters end with others (Node.js with its version).
ERROR = re.compile(r"error\b", re.IGNORECASE)


def ask(command: str, coupling: Coupling, context: Context, budget: Budget) -> Plan:
    """The plan that a program writes.

    Args:
        command: the program with its arguments, as in a shell, but run without one. It reads the groups file with the
            `request` on its standard input, and writes a plan to its standard output; what it says on standard error
            is shown.
        coupling: what can be pruned.
        context: the user's options, and statistics of data where there are any.
        budget: what the result must meet.

    Raises:
        OptionError: there is no command, or it cannot be taken apart.
        PluginError: the program cannot be started, fails, or writes no plan.
    """
    who = f"selector 'exec:{command}'"
    words = _words(command)
    plugins.may_run(f"exec:{command}")
    document = {
        **outline(coupling, context.statistics),
        "request": _request(coupling, context, budget),
    }
    answer = _answer(words, json.dumps(document, allow_nan=False).encode(), who)
    if not answer.strip():
        raise PluginError(
            f"{who} wrote nothing to its standard output; a plan was expected, as JSON"
        )
    try:
        return Plan.from_json(parse_json(answer), "its output")
    except PlanError as error:
        raise PluginError(f"{who}: {error}") from error
    except MALFORMED as error:
        raise PluginError(
            f"{who} wrote no JSON to its standard output: {error}; it begins {_shown(answer)}"
        ) from error


def _words(command: str) -> list[str]:
    """A command's program and arguments. No shell looks at them. Raises OptionError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionError(
            f"the command of exec:{command} cannot be taken apart: {error}"
        ) from error
    if not words:
        raise OptionError('exec needs a command, as in exec:"node choose.js"')
    return words


def _request(coupling: Coupling, context: Context, budget: Budget) -> dict[str, Any]:
    """Say what the user asks for, as plain JSON."""
    kind = budget.kind
    original = full_cost(coupling.graph)
    bound = {"bound": budget.bound(original)} if kind in vars(original) else {}
    asked = {"kind": kind, "value": getattr(budget, kind), **bound}
    request: dict[str, Any] = {"budget": asked, "seed": context.seed}
    choice = context.choice
    if choice is None:
        return request
    graph = coupling.graph
    ratios = {
        layer: ratio
        for pattern, ratio in choice.ratio_for.items()
        for layer in named_layers(graph, [pattern])
    }
    protected = {
        *named_layers(graph, choice.keep),
        *(layer for layer, ratio in ratios.items() if ratio == 0),
    }
    return {
        **request,
        "protected": [
            group.id for group in coupling.groups if protected.intersection(group.layers)
        ],
        "min_channels": choice.min_channels,
        "round_to": choice.round_to,
        "ratio_for": ratios,
    }


def _shown(answer: bytes) -> str:
    return repr(answer[:60].decode(errors="replace"))


# -- the process ------------------------------------------------------------------------------


def _answer(words: Sequence[str], document: bytes, who: str) -> bytes:
    """Say what a program writes to its standard output. Raises PluginError if it fails."""
    try:
        # A session of its own, so that it can be ended with all that it started.
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PluginError(f"{who} cannot be started: {words[0]}: {reason}") from error
    says = _Relay(process)
    threading.Thread(target=_feed, args=(process, document), daemon=True).start()
    try:
        answer = _read(process, who)
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    says.join()
    if code:
        raise PluginError(
            f"{who} {_ending(code)}" + (f": {says.last}" if says.last else "")
        )
    return answer


def _feed(process: subprocess.Popen[bytes], document: bytes) -> None:
    """Write a program's input. One that does not read it all is free to."""
    assert process.stdin is not None
    try:
        with process.stdin as to:
            to.write(document)
    except OSError:
        pass


def _read(process: subprocess.Popen[bytes], who: str) -> bytes:
    assert process.stdout is not None
    parts, size = [], 0
    with process.stdout as output:
        while part := os.read(output.fileno(), CHUNK):
            parts.append(part)
            size += len(part)
            if size > MAX_OUTPUT:
                _end(process)  # before its pipe is closed: it would complain of that
                raise PluginError(
                    f"{who} wrote more than {MAX_OUTPUT:,} bytes to its standard output; it was ended"
                )
    return b"".join(parts)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:  # gone already
        pass
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class _Relay:
    """Shows what a program says on standard error while it runs."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process, self._tail = process, b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            while part := os.read(said.fileno(), CHUNK):
                self._tail = (self._tail + part)[-TAIL:]
                if sys.stderr is not None:
                    sys.stderr.write(part.decode(errors="replace"))
                    sys.stderr.flush()

    def join(self) -> None:
        """Wait for the rest; a process that the program left behind may hold the pipe open for longer."""
        self._thread.join(timeout=1)

    @property
    def last(self) -> str:
        """The last line that speaks of an error, else the last one that is not empty."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        said = [line for line in lines if line]
        return next(
            (line for line in reversed(said) if ERROR.search(line)),
            said[-1] if said else "",
        )
