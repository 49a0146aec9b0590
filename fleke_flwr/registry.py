"""Find editors and strategies by name, by entry point, or by ``package.module:Class``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of method, resolved to classes only when asked for.

    Parameters
    ----------
    kind : str
        What is registered, in the singular, for messages.
    base : type
        What every entry must be a subclass of.
    group : str
        Entry-point group through which other packages add theirs.
    """

    def __init__(self, kind: str, base: type[T], group: str) -> None:
        self.kind = kind
        self.base = base
        self.group = group
        self._places: dict[str, str] = {}

    def add(self, name: str, place: str) -> None:
        """Register ``package.module:Class`` under a lower-case name.

        Raises
        ------
        ConfigError
            If the name is not lower case, is taken, or the place has no class part.
        """
        if name != name.lower() or not name.replace("_", "").isalnum():
            raise ConfigError(f"{self.kind} name {name!r}: use lower case, digits and underscores")
        if name in self._places:
            raise ConfigError(f"{self.kind} {name!r} is already {self._places[name]}; rename yours")
        if ":" not in place:
            raise ConfigError(f"{self.kind} {name!r}: {place!r} is not 'package.module:Class'")
        self._places[name] = place

    def names(self) -> list[str]:
        """Return all known names, those of other packages included."""
        return sorted({*self._places, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> type[T]:
        """Return the class behind a name or a ``package.module:Class``.

        Raises
        ------
        ConfigError
            If nothing is found, naming the nearest known method, or if the class does not fit.
        """
        place = name if ":" in name else self._place(name)
        module, _, attribute = place.partition(":")
        if not module or module.startswith("."):
            raise ConfigError(f"{self.kind} {name!r}: write it as 'package.module:Class'")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.kind} {name!r}: {place!r} cannot be imported ({error})"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(
                f"{self.kind} {name!r}: {place!r} is not a subclass of {self.base.__name__}"
            )
        return found

    def _place(self, name: str) -> str:
        if name in self._places:
            return self._places[name]
        for point in entry_points(group=self.group):
            if point.name == name:
                return point.value
        raise ConfigError(unknown(self.kind, name, self.names()))
