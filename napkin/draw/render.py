"""The Jinja environment of pictures: everything a template prints is escaped for XML.

In: a template of templates/svg and a view that is decided already. Out: SVG text. Kernels and
pseudocode have an environment of their own (emit/render.py): they must not be escaped.
"""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from napkin.resources import read_text

# What XML 1.0 admits as a character; nothing else may appear, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(value: object) -> object:
    """Return a text with every character that XML forbids replaced; other values as they are."""
    if isinstance(value, Markup):
        return value  # made by a template, from values that were cleaned when it printed them
    return _ILLEGAL.sub("\ufffd", value) if isinstance(value, str) else value


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(lambda name: read_text("templates", name)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
        finalize=clean,
    )


def render(template: str, **view: object) -> str:
    """Return a template of templates/ filled with a view, all of it escaped."""
    return _environment().get_template(template).render(**view)
