"""Name -> thing, filled by decorators here and by entry points of other packages.

One `Registry` per kind of plug-in. Registering a name twice raises; an unknown name
raises with the nearest known one. Entry points are read at the first look-up that
misses, so that start-up stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from prunegraph.errors import PluginError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name.

    `kind` is the word used in messages, `entry_point` the group that other packages use.
    """

    def __init__(self, kind: str, entry_point: str | None = None):
        self.kind = kind
        self.entry_point = entry_point
        self._things: dict[str, T] = {}
        self._loaded = entry_point is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores a thing under `name`. Raises PluginError for a duplicate."""

        def store(thing: T) -> T:
            if name in self._things:
                raise PluginError(f"{self.kind} {name!r} is registered twice; choose another name")
            self._things[name] = thing
            return thing

        return store

    def get(self, name: str) -> T:
        """The thing of that name. Raises UnknownNameError."""
        if name not in self._things:
            self._load()
        if name not in self._things:
            raise UnknownNameError(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: str) -> bool:
        if name not in self._things:
            self._load()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._things))

    def _load(self) -> None:
        if self._loaded or self.entry_point is None:
            return
        self._loaded = True
        for point in entry_points(group=self.entry_point):
            try:
                thing = point.load()
            except Exception as error:
                where = f"{self.kind} plug-in {point.name!r} ({point.value})"
                raise PluginError(f"{where} failed to load: {error}") from error
            if point.name not in self._things:
                self.register(point.name)(thing)
