"""Hooks of the site: equations become MathML, which browsers draw themselves.

Links to files of the repository beside docs/ are checked and point to it.
"""

import html
import re
from typing import Any

import latex2mathml.converter

_MATH = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">'
  r'\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>',
  re.DOTALL,
)


def _mathml(match: re.Match[str]) -> str:
  tex = html.unescape(match['tex']).strip()
  display = 'block' if match['tag'] == 'div' else 'inline'
  return latex2mathml.converter.convert(tex, display=display)


def on_page_content(content: str, **kwargs: Any) -> str:
  """Replaces the equations of a page."""
  del kwargs
  return _MATH.sub(_mathml, content)
