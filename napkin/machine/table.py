"""A TOML table read field by field.

In: what tomllib gives. Out: typed values. A missing field, a field of another kind and, at
`close`, a field that nobody asked for are InternalErrors: the files ship with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TypeVar

from napkin.language.errors import InternalError

_T = TypeVar("_T")


class Table:
    """A TOML table read field by field; `close` refuses what nobody asked for."""

    def __init__(self, place: str, values: dict[str, object]) -> None:
        self.place = place
        self._values = values
        self._read: set[str] = set()

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a text")
        return value

    def integer(self, key: str) -> int:
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self._wrong(key, "a positive integer")
        return value

    def number(self, key: str) -> float:
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self._wrong(key, "a positive number")
        return float(value)

    def day(self, key: str) -> date:
        value = self._take(key)
        if not isinstance(value, date):
            raise self._wrong(key, "a date")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(key, "a list of texts")
        return tuple(value)

    def table(self, key: str) -> Table:
        value = self._take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table")
        return Table(f"{self.place}.{key}", value)

    def tables(self, key: str) -> tuple[Table, ...]:
        """Return the tables of a list that may be absent."""
        self._read.add(key)
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self._wrong(key, "a list of tables")
        return tuple(Table(f"{self.place}.{key}[{i}]", each) for i, each in enumerate(value))

    def optional(self, key: str, read: Callable[[str], _T]) -> _T | None:
        return read(key) if key in self._values else None

    def close(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise InternalError(f"machine file {self.place} has unknown fields: {unknown}")

    def _take(self, key: str) -> object:
        self._read.add(key)
        if key not in self._values:
            raise InternalError(f"machine file {self.place} lacks the field {key}")
        return self._values[key]

    def _wrong(self, key: str, kind: str) -> InternalError:
        return InternalError(f"machine file {self.place}: {key} is not {kind}")
