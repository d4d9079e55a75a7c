"""Turns what reStructuredText docstrings say into Markdown, for the site."""

import inspect
import re
from typing import Any

import griffe

_MATH = re.compile(r'^( *)\.\. math:: *(.+(?:\n(?:\1 +\S.*)?)*)', re.MULTILINE)


def _equation(match: re.Match[str]) -> str:
  indent, body = match.groups()
  return f'{indent}$$\n{indent}{" ".join(body.split())}\n{indent}$$\n'


def _fenced(text: str) -> str:
  """Fences the commands of a file's docstring, which are indented."""
  parts: list[str] = []
  for part in filter(None, re.split(r'\n{2,}', text)):
    if not all(line.startswith('  ') for line in part.splitlines()):
      parts.append(part)
    elif parts and parts[-1].endswith('\n```'):
      parts[-1] = f'{parts[-1][:-3]}\n{inspect.cleandoc(part)}\n```'
    else:
      parts.append(f'```text\n{inspect.cleandoc(part)}\n```')
  return '\n\n'.join(parts)


class Markdown(griffe.Extension):
  """Writes equations between dollars, and commands in fences."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Rewrites the docstring of an object that was read."""
    del kwargs
    if obj.docstring:
      if obj.is_module:
        obj.docstring.value = _fenced(obj.docstring.value)
      obj.docstring.value = _MATH.sub(_equation, obj.docstring.value)
