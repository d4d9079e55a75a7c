"""The fields of a dataclass with their defaults, as its file says them."""

import ast

from experiments.documents import markdown


def fields(name: str) -> str:
  """Writes a table of a dataclass's fields.

  Args:
    name: dotted, such as dim_jax.objectives.dim.Config.

  Raises:
    ValueError: its file has no such class.
  """
  module, _, kind = name.rpartition('.')
  path = markdown.ROOT.joinpath(*module.split('.')).with_suffix('.py')
  tree = ast.parse(path.read_text(encoding='utf-8'))
  found = [
    node
    for node in tree.body
    if isinstance(node, ast.ClassDef) and node.name == kind
  ]
  if not found:
    raise ValueError(f'{path} has no class {kind}.')
  body = found[0].body
  rows = []
  for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
    if isinstance(node, ast.AnnAssign) and 'ClassVar' not in ast.unparse(node):
      text = ''
      if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        text = ' '.join(str(after.value.value).split())
      default = '' if node.value is None else _default(node.value)
      cells = [f'`{ast.unparse(node.target)}`', f'`{default}`', text]
      rows.append([cell.replace('|', '\\|') for cell in cells])
  return markdown.table(['field', 'default', 'what it is'], rows)


def _default(value: ast.expr) -> str:
  """Writes a default; of a factory, what it makes."""
  if isinstance(value, ast.Call) and ast.unparse(value.func).endswith('field'):
    (factory,) = (
      keyword.value
      for keyword in value.keywords
      if keyword.arg == 'default_factory'
    )
    if isinstance(factory, ast.Lambda):
      return ast.unparse(factory.body)
    return f'{ast.unparse(factory)}()'
  return ast.unparse(value)
