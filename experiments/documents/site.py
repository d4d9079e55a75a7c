"""Hooks of the site: lists of modules, equations as MathML, an offline search.

Browsers draw MathML themselves, so that the site needs neither scripts nor a
network for it. What pages that are opened as files need to search, the theme
would load from a network.
"""

import html
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]

_MATH = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">'
  r'\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>',
  re.DOTALL,
)


# `::: dim_jax.losses.*`, with the options below it, is all modules in there.
_MODULES = re.compile(
  r'^::: (?P<package>[\w.]+)\.\*\n(?P<options>(?:    .*\n)*)', re.MULTILINE
)


def modules(package: str) -> list[str]:
  """Lists the public modules of a package, in its folders too.

  Args:
    package: dotted.
  """
  folder = ROOT.joinpath(*package.split('.'))
  return sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in folder.rglob('*.py')
    if not path.name.startswith('_')
  )


def expanded(markdown: str) -> str:
  """Names each module of the packages that a page documents."""

  def each(match: re.Match[str]) -> str:
    return '\n'.join(
      f'::: {name}\n{match["options"]}' for name in modules(match['package'])
    )

  return _MODULES.sub(each, markdown)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
  """Lists modules."""
  del kwargs
  return expanded(markdown)


def _mathml(match: re.Match[str]) -> str:
  # Of the extra [docs] alone; modules are listed without it.
  import latex2mathml.converter

  tex = html.unescape(match['tex']).strip()
  display = 'block' if match['tag'] == 'div' else 'inline'
  return latex2mathml.converter.convert(tex, display=display)


def on_page_content(content: str, **kwargs: Any) -> str:
  """Replaces the equations of a page."""
  del kwargs
  return _MATH.sub(_mathml, content)


def on_post_page(output: str, page: Any, **kwargs: Any) -> str:
  """Takes the search's script from the site itself."""
  del kwargs
  script = '../' * page.url.count('/') + 'assets/iframe_worker.js'
  return re.sub(r'https://[\w.]+/iframe-worker/shim', script, output)
