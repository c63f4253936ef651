"""The one Jinja environment that every text is printed with.

A template gets a view that is decided already; a missing name is an error and never an empty string.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, FunctionLoader, StrictUndefined

from napkin.resources import read_text


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(lambda name: read_text("templates", name)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the products are Python and plain text; SVG has an environment of its own
    )


def render(template: str, **view: object) -> str:
    """Return a template of templates/ filled with a view."""
    return _environment().get_template(template).render(**view)
