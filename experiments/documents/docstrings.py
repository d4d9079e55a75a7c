"""Turns what reStructuredText docstrings say into Markdown, for the site."""

import re
from typing import Any

import griffe

_MATH = re.compile(r'^( *)\.\. math:: *(.+(?:\n(?:\1 +\S.*)?)*)', re.MULTILINE)


def _equation(match: re.Match[str]) -> str:
  indent, body = match.groups()
  return f'{indent}$$\n{indent}{" ".join(body.split())}\n{indent}$$\n'


class Markdown(griffe.Extension):
  """Writes equations of docstrings between dollars, as the site's are."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Rewrites the docstring of an object that was read."""
    del kwargs
    if obj.docstring:
      obj.docstring.value = _MATH.sub(_equation, obj.docstring.value)
