"""What README.md and docs/ say is what results, flags and files are."""

import ast
import importlib
import json
import pathlib
import re
import tomllib
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

import dim_jax
from dim_jax.commands.command import Command
from dim_jax.objectives.terms import mutual_information, prior_matching
from experiments.documents import __main__ as generated
from experiments.documents import (
  commands,
  curves,
  fields,
  markdown,
  results,
  samples,
)
from experiments.documents import site as site_hooks

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = markdown.documents()
TEXTS = [*DOCUMENTS, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md']


def name_of(path):
  return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_tables_are_those_of_the_results(path):
  text = path.read_text(encoding='utf-8')
  assert markdown.filled(text, generated.PARTS) == text, (
    'run python -m experiments.documents'
  )


def test_every_table_is_in_a_document():
  text = '\n'.join(path.read_text(encoding='utf-8') for path in DOCUMENTS)
  used = set(re.findall(r'<!-- generated: (\w+)', text))
  assert used == set(generated.PARTS)


def test_a_result_that_changes_changes_its_table(monkeypatch):
  # Accuracies 0.25 and 0.75 are 50 % on average, and sqrt(2 * 25^2) apart.
  rows = [
    {'start': start, 'labels_per_class': n, 'accuracy': [25.0, 75.0]}
    for start in ('scratch', 'finetune', 'semi')
    for n in (1, 10)
  ]
  monkeypatch.setattr(
    'experiments.documents.representations.load', lambda name: {'rows': rows}
  )
  before = (ROOT / 'docs/methods/deep_infomax.md').read_text(encoding='utf-8')
  after = markdown.filled(before, generated.PARTS | {
    name: lambda *_: ''
    for name in generated.PARTS
    if name != 'few_labels'
  })  # fmt: skip
  assert '| from scratch | 50.0 ± 35.4 | 50.0 ± 35.4 |' in after


def test_parts_that_are_wrong_are_named():
  with pytest.raises(ValueError, match="no part 'absent'"):
    markdown.filled('<!-- generated: absent -->\n<!-- end -->\n', {})
  with pytest.raises(ValueError, match='without its <!-- end -->'):
    markdown.filled('<!-- generated: absent -->\n', {})
  with pytest.raises(ValueError, match='has no class Absent'):
    fields.fields('dim_jax.config.Absent')


def test_a_part_of_results_to_come_is_left_out():
  text = 'a\n<!-- generated: later -->\n\nold\n\n<!-- end -->\nb\n'
  empty = 'a\n<!-- generated: later -->\n<!-- end -->\nb\n'
  assert markdown.filled(text, {'later': str}) == empty
  assert markdown.filled(empty, {'later': lambda: 'old'}) == text


def test_columns_of_numbers_are_to_the_right():
  # The first is of names; of the others those that begin with a number all.
  rows = [['1', '-0.5 nats', '3 of 4', 'a'], ['2', '—', '', '1']]
  assert markdown.table('abcd', rows).splitlines()[1] == (
    '| --- | ---: | ---: | --- |'
  )
  with pytest.raises(ValueError, match='rows differ in length'):
    markdown.table('ab', [['1']])


def test_a_spread_is_of_a_sample():
  # Mean 2, squares 1 + 0 + 1 over n - 1 = 2.
  assert markdown.spread([1.0, 2.0, 3.0]) == '2.0 ± 1.0'
  assert markdown.spread([0.5], 2, 100) == '50.00'
  assert [markdown.minutes(s) for s in ([59.6], [60, 120])] == [
    '60 s',
    '1 to 2 min',
  ]


def test_an_old_command_has_the_names_of_today():
  old = 'python -m experiments.train --config=experiments/configs/'
  assert (
    results.config_name(
      old + 'cpc_cifar10.py --workdir=RUN --config.steps=3 --config.seed=1'
    )
    == 'gim_cifar10:cpc --config.steps=3'
  )


def test_readme_counts_what_there_is():
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  words = {9: 'nine', 13: 'thirteen'}
  bounds = len(mutual_information.BOUNDS)
  # 'kl' is a distribution with a divergence of its own.
  matched = len({*prior_matching.DIVERGENCES, 'kl'})
  assert f'{words[bounds]} bounds that train a critic' in text
  assert f'{words[matched]} ways of matching a prior' in ' '.join(text.split())


def test_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) < 200


@pytest.mark.parametrize('path', TEXTS, ids=name_of)
def test_links_lead_to_files(path):
  text = re.sub(r'```.*?```', '', path.read_text(encoding='utf-8'), flags=re.S)
  for target in re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', text):
    if '://' not in target:
      assert (path.parent / target).exists(), target
  # Named files of the repository too, but for those that runs write and names
  # with a word to fill in.
  for target in re.findall(
    r'`((?:dim_jax|experiments|tests|notebooks)/[\w/.]+)`', text
  ):
    assert (ROOT / target).exists() or 'yours' in target, target


def commands_of(path):
  """Commands as they stand and as they are run, with what they stand in."""
  return [
    (block, module, arguments)
    for block in commands.blocks(path.read_text(encoding='utf-8'))
    if block.language == 'sh'
    for line in commands.lines(block.text)
    for form in (line, commands.shortened(line))
    if (command := commands.parsed(form))
    for module, arguments in [command]
  ]


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_commands_have_the_flags_that_they_name(path):
  for block, module, arguments in commands_of(path):
    where = f'line {block.line}: {module} {arguments}'
    assert importlib.util.find_spec(module), where
    if module == 'dim_jax.data.prepare':  # It needs TensorFlow.
      continue
    code = importlib.import_module(module)
    (command,) = {
      value for value in vars(code).values() if isinstance(value, Command)
    } or {None}
    if command is None:  # Benchmarks have argparse.
      source = pathlib.Path(code.__file__).read_text(encoding='utf-8')
      for argument in arguments:
        assert f"'{argument.partition('=')[0]}'" in source, where
    else:
      # It exits, in a line, where one is wrong.
      command.parse([module, *arguments])


def test_there_are_commands_and_some_run():
  found = [block for path in DOCUMENTS for block, *_ in commands_of(path)]
  assert len(found) > 2 * 40
  assert sum(not block.skipped for block in found) > 2 * 30


def test_a_command_is_shortened_behind_its_own_flags():
  line = 'dim-jax train --config=a --config.steps=300'
  short = commands.shortened(line)
  assert short.startswith(line) and short.index('steps=4') > len(line)
  assert commands.shortened('dim-jax train --list') == 'dim-jax train --list'
  script = 'a \\\n  b  # why\n# c\n\nd\n'
  assert commands.lines(script) == ['a    b', 'd']


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_python_blocks_import_what_there_is(path):
  for block in commands.blocks(path.read_text(encoding='utf-8')):
    if block.language == 'python':
      for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
          module = importlib.import_module(node.module)
          for alias in node.names:
            assert hasattr(module, alias.name) or importlib.util.find_spec(
              f'{node.module}.{alias.name}'
            )


def test_the_site_has_every_page_and_every_module():
  class Loader(yaml.SafeLoader):
    pass

  site = yaml.load((ROOT / 'mkdocs.yml').read_text(), Loader)
  pages = set(re.findall(r'[\w/]+\.md', str(site['nav'])))
  assert pages == {
    str(path.relative_to(ROOT / 'docs')) for path in DOCUMENTS[1:]
  }
  listed = [
    name
    for path in (ROOT / 'docs/api').iterdir()
    for name in re.findall(
      r'^::: ([\w.]+)$', site_hooks.expanded(path.read_text()), re.M
    )
  ]
  packages = {'dim_jax', 'dim_jax.commands', 'dim_jax.configs'}
  assert len(set(listed)) == len(listed)
  assert set(listed) == packages | set(site_hooks.modules('dim_jax'))
  assert 'dim_jax.losses.bounds' in listed


@pytest.mark.parametrize(
  'url, folder', [('index.html', ''), ('api/losses.html', '../')]
)
def test_the_search_of_the_site_needs_no_network(url, folder):
  page = types.SimpleNamespace(url=url)
  theirs = '<script src="https://example.com/iframe-worker/shim"></script>'
  ours = f'<script src="{folder}assets/iframe_worker.js"></script>'
  assert site_hooks.on_post_page(theirs, page) == ours
  assert (ROOT / 'docs/assets/iframe_worker.js').exists()


def test_versions_agree():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  changes = (ROOT / 'CHANGELOG.md').read_text()
  newest = re.findall(r'^## \[([\d.]+)\] - ([\d-]+)$', changes, re.M)[0]
  assert project['version'] == dim_jax.__version__ == citation['version']
  assert newest == (project['version'], citation['date-released'])
  # What version 1.2.0 of the Citation File Format requires.
  assert citation['cff-version'] == '1.2.0'
  assert {'message', 'title', 'authors'} <= citation.keys()


@pytest.mark.parametrize(
  'path', sorted((ROOT / '.github').rglob('*.yml')), ids=name_of
)
def test_workflows_and_templates_are_of_their_form(path):
  content = yaml.safe_load(path.read_text(encoding='utf-8'))
  if path.parent.name == 'workflows':
    # YAML 1.1 reads the key `on` as True.
    assert content.keys() >= {'name', True, 'jobs'}
    makefile = (ROOT / 'Makefile').read_text()
    for job in content['jobs'].values():
      assert job['runs-on'] and job['timeout-minutes'] and job['steps']
      for step in job['steps']:
        assert ('uses' in step) != ('run' in step)
        for target in re.findall(r'^make ([\w-]+)', step.get('run', ''), re.M):
          assert re.search(f'^{target}:', makefile, re.M), target
  elif path.name != 'config.yml':
    assert content.keys() >= {'name', 'description', 'body'}
    inputs = [part for part in content['body'] if part['type'] != 'markdown']
    assert len({part['id'] for part in inputs}) == len(inputs) > 0


def test_every_dependency_has_a_lower_bound():
  # What the job of the lowest versions installs.
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  extras = project['optional-dependencies']
  direct = [*project['dependencies'], *extras['dev'], *extras['docs']]
  for requirement in direct:
    name = requirement.partition(';')[0].strip()
    assert re.fullmatch(r'[\w.-]+(\[\w+\])?>=[\d.]+', name), requirement


def test_curves_of_a_result_show_its_features_and_what_was_published(tmp_path):
  path = tmp_path / 'curves.svg'
  curves.draw('dim_cifar10_short', str(path))
  text = path.read_text(encoding='utf-8')
  for name in ('conv', 'fc', 'y', 'conv, published'):
    assert f'>{name}</text>' in text
  curves.draw('dim_cifar10_short', str(tmp_path / 'of_row.svg'), 'short')
  assert (tmp_path / 'of_row.svg').read_text(encoding='utf-8') == text
  with pytest.raises(ValueError, match="has no checkpoints of row 'absent'"):
    curves.draw('dim_cifar10_short', str(path), 'absent')


def test_samples_of_runs_are_beside_test_images(tmp_path):
  for row, level in (('nearest', -1.0), ('gan', 1.0)):
    run = tmp_path / row
    (run / 'evaluation').mkdir(parents=True)
    command = f'dim-jax train --config=stein_gan_mnist:{row} --config.seed=1'
    (run / 'run.json').write_text(json.dumps({'command': command}))
    np.savez(
      run / 'evaluation' / 'density.npz',
      samples=np.full((70, 8, 8, 1), level, np.float32),
      data=np.zeros((70, 8, 8, 1), np.float32),
    )
  path = tmp_path / 'samples.png'
  samples.draw(str(path), str(tmp_path / 'nearest'), str(tmp_path / 'gan'))
  picture = plt.imread(path)
  # Most of each third of the picture: black, white, and grey test images.
  lower = picture[len(picture) // 4 :, :, 0]
  shades = [np.median(part) for part in np.array_split(lower, 3, axis=1)]
  np.testing.assert_allclose(shades, [0, 1, 0.5], atol=0.01)
