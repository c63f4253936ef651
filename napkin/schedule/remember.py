"""Remember what a function of one unchanging value gives.

Planning lays one structure out by hundreds of tilings, whose Programs share their operations, and asks
each the same questions. An answer is found by the value's identity, since to compare Programs or machines
would take longer than to ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Value = TypeVar("Value")
Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")

_MOST = 20_000  # answers; then all are forgotten
_PLAIN = (bool, int, float, str)  # are parts by value


def remembered(function: Callable[[Value], Answer]) -> Callable[[Value], Answer]:
    """Return the function, which answers for the same value at once; nobody may change its answer.

    Lists may change, and are asked anew.
    """
    known: dict[int, tuple[Value, Answer]] = {}

    @wraps(function)
    def ask(value: Value) -> Answer:
        if isinstance(value, list):
            return function(value)
        found = known.get(id(value))
        if found is not None and found[0] is value:
            return found[1]
        if len(known) >= _MOST:
            known.clear()
        answer = function(value)
        known[id(value)] = (value, answer)  # what is kept alive keeps its identity
        return answer

    return ask


def remembered_by(
    parts: Callable[Arguments, tuple[object, ...]],
) -> Callable[[Callable[Arguments, Answer]], Callable[Arguments, Answer]]:
    """Return a decorator as `remembered`, for a function of several values, or of a part of one.

    `parts` gives what the answer depends on: numbers and names by value, all else by identity.
    """

    def decorate(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
        known: dict[tuple[object, ...], tuple[tuple[object, ...], Answer]] = {}

        @wraps(function)
        def ask(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
            values = parts(*args, **kwargs)
            key = tuple(each if type(each) in _PLAIN else id(each) for each in values)
            found = known.get(key)
            if found is not None:
                return found[1]
            if len(known) >= _MOST:
                known.clear()
            answer = function(*args, **kwargs)
            known[key] = (values, answer)  # what is kept alive keeps its identity
            return answer

        return ask

    return decorate
