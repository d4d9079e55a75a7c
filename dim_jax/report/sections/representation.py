"""Measures of representations in one table, and reconstructed images."""

from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.evaluation import units as units_lib
from dim_jax.report import figures
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, labelled

# The title of a column, the measure and its value, decimals, and a factor.
_COLUMNS = (
  ('SVM, %', 'svm', 'accuracy', 1, 100),
  ('kNN, %', 'knn', 'accuracy', 1, 100),
  ('few, %', 'linear_few', 'accuracy', 1, 100),
  ('MS-SSIM', 'reconstruction', 'multiscale_ssim', 3, 1),
  ("DIM's SSIM", 'reconstruction', 'dim_ssim', 3, 1),
  ('MSE', 'reconstruction', 'squared_error', 4, 1),
  ('I(X; Y + noise) from', 'information', 'lower', 2, 1),
  ('to', 'information', 'upper', 2, 1),
  ('NDM', 'dependence', 'value', 2, 1),
  ('RankMe', 'rank', 'rankme', 1, 1),
  ('alpha-ReQ', 'rank', 'alpha_req', 2, 1),
  ('LiDAR', 'lidar', 'lidar', 1, 1),
  ('active units', 'units', 'active', 0, 1),
  ('capacity', 'units', 'capacity', 2, 1),
  ('rate', 'units', 'rate', 2, 1),
)
# The titles, or their ends, that say how well classes and images are read off.
OF_EXAMPLES = ('%', 'SSIM', 'MSE')


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows the measures, a row for each encoder, feature and run."""
  done = labelled(runs, 'representation')
  rows = [
    row | {'run': label} for label, found in done for row in records(found)
  ]
  parts: list[Part] = [Table(rows)] if rows else []
  for label, found in done:
    who = f'{label}: ' if len(done) > 1 else ''
    parts += [Text(f'{who}{note}') for note in notes(found)]
    parts += _published(found)
  if len(runs) == 1 and figures.TEST in runs[0].reconstructions:
    parts.append(draw(figures.reconstructions, runs[0].reconstructions))
  return parts


def records(found: Mapping[str, Any]) -> list[dict[str, str]]:
  """Makes the rows of the table of a representation.json.

  Returns:
    A mapping for each encoder and feature, from columns to cells; accuracies
    are percent, information and NDM nats.
  """
  results = found['results']
  labels = dict.fromkeys(x['label'] for x in results if 'label' in x)
  rows: dict[tuple[str, str], dict[str, str]] = {}
  # In the order of the columns, whatever was measured first.
  for title, measure, value, digits, factor in _COLUMNS:
    for result in results:
      if result['measure'] != measure:
        continue
      key = result['encoder'], result['feature']
      row = rows.setdefault(
        key, {'feature': result['feature'], 'encoder': result['encoder']}
      )
      number = result['values'].get(value)
      several = len(labels) > 1 and 'label' in result
      name = f'{result["label"]}: {title}' if several else title
      row[name] = fixed(None if number is None else factor * number, digits)
  # Feature by feature, so that encoders stand below one another.
  features = list(dict.fromkeys(x['feature'] for x in results))
  return sorted(rows.values(), key=lambda row: features.index(row['feature']))


def notes(found: Mapping[str, Any]) -> list[str]:
  """Says in sentences how the numbers were measured."""
  by_measure = {x['measure']: x['values'] for x in found['results']}
  decoders: dict[str, list[str]] = {}
  for x in found['results']:
    if 'settings' in x['values'] and x['measure'] == 'reconstruction':
      who = f'{x["encoder"]} {x["feature"]}'
      decoders.setdefault(_decoder(x['values']), []).append(who)
  # Results of several calls may come from different decoders.
  sentences = [
    f'{text} ({", ".join(who)}).' if len(decoders) > 1 else f'{text}.'
    for text, who in decoders.items()
  ]
  if any(x['measure'] == 'linear_few' for x in found['results']):
    sentences.insert(0, 'few: a linear probe of few labels per class.')
  if information := by_measure.get('information'):
    sentences.append(
      'I(X; Y + noise) in nats, with Gaussian noise of '
      f'{information["settings"]["noise"]:g} times the standard deviation of '
      f'the features; ceiling {fixed(information["ceiling"], 2)}.'
    )
  if dependence := by_measure.get('dependence'):
    sentences.append(
      'NDM: total correlation of the dimensions in nats, 0 where they are '
      f'independent, as of permuted ones ({fixed(dependence["control"], 2)} '
      f'measured); ceiling {fixed(dependence["ceiling"], 2)}.'
    )
  if rank := by_measure.get('rank'):
    sentences.append(
      f'RankMe and alpha-ReQ: of {rank["examples"]} test examples.'
    )
  if lidar := by_measure.get('lidar'):
    sentences.append(
      f'LiDAR: of {lidar["examples"]} training images in {lidar["views"]} '
      f'views each. {found.get("views") or ""}'.strip()
    )
  if units := by_measure.get('units'):
    sentences.append(
      f'Active units: of {units["units"]}, those whose mean varies by more '
      f'than {units_lib.ACTIVE:g}; capacity and rate: nats of all units, '
      'ln(1 + SNR) / 2 and the KL from N(0, I), on test examples.'
    )
  return sentences


def _decoder(values: Mapping[str, Any]) -> str:
  used = values['settings']
  return (
    f'MS-SSIM: of test images of {values["side"]}x{values["side"]} pixels from '
    f'a decoder with {used["channels"]} channels at 4x4, {used["epochs"]} '
    f'epochs, Adam {used["learning_rate"]:g}; {values["scales"]} of 5 scales '
    'fit'
  )


def _published(found: Mapping[str, Any]) -> list[Part]:
  paper = found.get('published')
  if not paper:
    return []
  rows = [
    {'model': name} | dict(zip(paper['columns'], cells, strict=True))
    for name, cells in paper['rows'].items()
  ]
  return [Table(rows, f'{paper["source"]}; this run stands for {paper["row"]}')]
