"""Name -> thing, filled by decorators here and by plug-ins.

One `Registry` per kind of thing. Registering a name twice raises; an unknown name raises with
the nearest known one. Entry points of other packages are loaded when their name is asked for,
so that a broken package does not stand in the way of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from prunegraph import plugins
from prunegraph.errors import PluginError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A registered thing. `origin` says where it comes from: "built in", "package ...", "file ..."."""

    name: str
    thing: Any
    kind: str
    origin: str

    @property
    def summary(self) -> str:
        """The first line of the thing's docstring."""
        lines = (self.thing.__doc__ or "").strip().splitlines()
        return lines[0] if lines else ""

    def __str__(self) -> str:
        place = f" ({self.origin})" if self.origin != plugins.BUILT_IN else ""
        return f"{self.kind} {self.name!r}{place}"


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: the word for one of them.
        entry_point: the group of entry points under which other packages offer them.
        parameters: arguments they are called with; checked at registration.
        beside: a registry whose names and entry points this one shares.
        family: the word for one of either kind, where registries share names.
    """

    def __init__(
        self,
        kind: str,
        entry_point: str | None = None,
        *,
        parameters: Sequence[str] = (),
        beside: Registry[Any] | None = None,
        family: str | None = None,
    ):
        self.kind = kind
        self.parameters = parameters
        self.entry_point: str | None = beside.entry_point if beside else entry_point
        self.family: str = beside.family if beside else family or kind
        self._entries: dict[str, Entry] = beside._entries if beside else {}
        self._points: dict[EntryPoint, PluginError | None] = (
            beside._points if beside else {}
        )

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores a thing under `name`.

        Raises:
            PluginError: the name is taken, or the thing cannot be called as this kind is.
        """
        if not isinstance(name, str) or not name or name.split() != [name]:
            raise PluginError(
                f"a {self.kind} is registered under a name of one word, not {name!r}"
            )

        def store(thing: T) -> T:
            entry = Entry(name, thing, self.kind, plugins.note_origin(thing))
            if self.parameters:
                plugins.check_parameters(thing, self.parameters, str(entry))
            known = self._entries.get(name)
            if known is not None and not _is_rerun(known.thing, thing):
                both = f"{known.origin} and {entry.origin}"
                raise PluginError(
                    f"{self.family} {name!r} is registered twice ({both}); choose another name"
                )
            self._entries[name] = entry
            return thing

        return store

    def get(self, name: str) -> T:
        """The thing of that name. Raises UnknownNameError, or PluginError if its package is broken."""
        thing: T = self.entry(name).thing
        return thing

    def entry(self, name: str) -> Entry:
        """Say what is registered under a name. Raises UnknownNameError, or PluginError if its package is broken."""
        result = self._find(name)
        if result is None:
            raise UnknownNameError(self.family, name, self.names())
        if result.kind != self.kind:
            raise UnknownNameError(self.kind, name, self)
        return result

    def __contains__(self, name: str) -> bool:
        result = self._find(name)
        return result is not None and result.kind == self.kind

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.entries())

    def entries(self) -> list[Entry]:
        """Say what there is, by name, packages included; what is broken is left out (see `check`)."""
        for point in self._installed():
            self._load(point)
        return sorted(
            (e for e in self._entries.values() if e.kind == self.kind),
            key=lambda entry: entry.name,
        )

    def names(self) -> list[str]:
        """All names of the family, without loading any package."""
        return sorted({*self._entries, *(point.name for point in self._installed())})

    def check(self) -> None:
        """Raise PluginError if an installed package is broken."""
        problems = [
            problem for point in self._installed() if (problem := self._load(point))
        ]
        if problems:
            raise PluginError("; ".join(map(str, problems)))

    # -- entry points -------------------------------------------------------------------

    def _find(self, name: str) -> Entry | None:
        for point in self._installed():
            problem = self._load(point) if point.name == name else None
            if problem is not None:
                raise problem
        return self._entries.get(name)

    def _installed(self) -> tuple[EntryPoint, ...]:
        return plugins.installed(self.entry_point) if self.entry_point else ()

    def _load(self, point: EntryPoint) -> PluginError | None:
        """Load an entry point once; what is wrong with it, or None."""
        if point not in self._points:
            self._points[point] = None
            try:
                thing = plugins.load_point(point)
                known = self._entries.get(point.name)
                if known is None or known.thing is not thing:
                    raise PluginError(
                        f"plug-in {plugins.package(point)}: {point.value} is not registered as {self.family} "
                        f"{point.name!r}; decorate that function with the entry point's name"
                    )
            except PluginError as error:
                self._points[point] = error
        return self._points[point]


def _is_rerun(old: object, new: object) -> bool:
    """Tell whether a cell of a notebook, or a line of an interactive session, defines the same thing again."""

    def place(thing: object) -> tuple[object, object]:
        return getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)

    interactive = not hasattr(sys.modules.get("__main__"), "__file__")
    return interactive and place(old) == place(new) and place(new)[0] == "__main__"
