"""Measures runs on pairs of lines, and answers lines that are typed."""

import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import rich.table

import dim_jax
from dim_jax import files, progress
from dim_jax.config import TextConfig
from dim_jax.data import text
from dim_jax.evaluation import characters
from dim_jax.evaluation.information import estimate
from dim_jax.losses import bounds
from dim_jax.runs import provenance, tables

CANDIDATES = 1000
_MOST = (1, 10)
_ANSWERS = 10


def measure(
  run_dir: str, *, step: int | None = None, show_progress: bool = True
) -> dict[str, Any]:
  """Measures what a run offers, and writes evaluation/couplets.json.

  Of a tagger accuracy and perplexity beside counts, the pointwise information
  of each place, and ten answers; of encoders of both lines retrieval and mutual
  information. Test pairs of each source are reported apart.

  Args:
    run_dir: the run.
    step: which checkpoint; the newest if None.
    show_progress: show a bar on standard error.

  Returns:
    The contents of the file.

  Raises:
    FileNotFoundError: the folder is not a run, or its data are not there.
    ValueError: the run is of other data or methods, or its data have changed.
  """
  started = time.time()
  run_dir = os.path.expanduser(run_dir)
  trained = _load(run_dir, step)
  config = _data(trained)
  parts = {
    'train': _examples(config, 'train', config.length),
    'validation': _examples(config, 'validation', config.length),
    'test': _examples(config, 'test', _longest(trained)),
  }
  if _vocabulary(run_dir, trained) != parts['train'].vocabulary:
    raise ValueError(
      f'the training lines of {config.name!r} have other characters than '
      f'{run_dir!r} was trained on: set back the folder as it was.'
    )
  report = provenance.header(parts['test'], trained.step, started)
  report['run_seed'] = trained.config.seed
  with progress.Progress(show_progress) as bar:
    if trained.objective.tags is not None:
      report |= _tagging(trained, parts, bar)
    else:
      report |= _retrieval(trained, parts, bar)
  report['seconds'] = time.time() - started
  folder = os.path.join(run_dir, 'evaluation')
  files.make_folder(folder)
  files.write_json(os.path.join(folder, 'couplets.json'), report)
  return report


def answer(run_dir: str, line: str) -> tuple[str, str]:
  """Answers a line by the most probable character at each place.

  Args:
    run_dir: the run of a tagger.
    line: that a user typed.

  Returns:
    The answer, and a note on characters that were never seen, or ''.

  Raises:
    FileNotFoundError: the folder is not a run.
    ValueError: the run cannot answer, or the line is not accepted.
  """
  trained = _load(run_dir, None)
  tags = trained.objective.tags
  if tags is None:
    raise ValueError(
      f'{run_dir!r} is no tagger, which alone answers lines: train one with '
      '--config=couplets:tagging.'
    )
  vocabulary = _vocabulary(run_dir, trained)
  pair = text.typed(line, vocabulary, _longest(trained))
  found = characters.of_model(tags, trained.variables, pair)
  unseen = sorted(set(''.join(line.split())) - set(vocabulary))
  note = ''
  if unseen:
    note = f'not in the vocabulary, and read as unknown: {" ".join(unseen)}'
  return text.decode(found.answer[0], vocabulary), note


def _load(run_dir: str, step: int | None) -> dim_jax.Encoder:
  trained = dim_jax.load(run_dir, step)
  objective = trained.objective
  if not isinstance(trained.config.data, TextConfig) or (
    objective.tags is None and objective.scores is None
  ):
    title = provenance.title(trained.config.objective)
    raise ValueError(
      f'{run_dir!r}, a run of {title}, neither answers lines nor scores pairs '
      'of them: train --config=couplets:tagging or couplets:infonce.'
    )
  return trained


def _data(trained: dim_jax.Encoder) -> TextConfig:
  config = trained.config.data
  if not isinstance(config, TextConfig):
    raise TypeError('`_load` refuses other data.')
  return config


def _vocabulary(run_dir: str, trained: dim_jax.Encoder) -> str:
  """The characters that a run knows, which run.json keeps."""
  kept = provenance.read(os.path.expanduser(run_dir)).get('vocabulary')
  return kept or _examples(_data(trained), 'train', 1).vocabulary


def _longest(trained: dim_jax.Encoder) -> int | None:
  """Returns the most characters that an encoder takes; None for any number."""
  config = trained.config.objective
  return config.length if config.encoder == 'attention' else None


def _examples(config: TextConfig, split: str, length: int | None) -> Any:
  """Loads a split; the test set with all lines that the encoder takes."""
  return text.load(
    config.name,
    split,
    length=length,
    vocabulary=config.vocabulary,
    pairs=config.pairs,
    validation=config.validation,
  )


def _by_source(test: Any) -> dict[str, np.ndarray]:
  """The test pairs of each source, as wide as its longest line."""
  found = {}
  for number, name in enumerate(test.class_names['source']):
    pairs = test.inputs[test.labels['source'] == number]
    if len(pairs):
      found[name] = pairs[:, :, : int((pairs[:, 0] > 0).sum(1).max())]
  return found


# --- taggers ------------------------------------------------------------------


def _tagging(
  trained: dim_jax.Encoder, parts: Mapping[str, Any], bar: progress.Progress
) -> dict[str, Any]:
  """Accuracy, perplexity, information by place, and answers."""
  tags = trained.objective.tags
  if tags is None:
    raise TypeError('a tagger has tags.')
  pairs, size = parts['train'].inputs, _data(trained).vocabulary
  above = characters.bigram(pairs, parts['validation'].inputs, size)
  marginals = characters.place_marginals(pairs[:, 1], size)
  rows, places = [], []
  answers: list[dict[str, str]] = []
  sources = _by_source(parts['test'])
  for name, tested in sources.items():
    first, second = tested[:, 0], tested[:, 1]
    with bar.task(f'answering {name}', len(tested)) as task:
      model = characters.of_model(
        tags,
        trained.variables,
        tested,
        progress=task.update,
      )
    real = second > text.PADDING
    about = {
      'source': name,
      'pairs': len(tested),
      'characters': int(real.sum()),
      'unknown': float((second == text.UNKNOWN).sum() / real.sum()),
    }
    for kind, found in (
      ('unigram', characters.of_unigram(above.unigram, second)),
      ('bigram', characters.of_bigram(above, first, second)),
      ('model', model),
    ):
      rows.append(about | {'by': kind} | characters.summary(found, second))
    for row in characters.pointwise(model, second, marginals):
      places.append({'source': name} | row)
    for i in range(min(len(tested), -(-_ANSWERS // len(sources)))):
      lines = (first[i], np.where(real[i], model.answer[i], 0), second[i])
      shown = [text.decode(x, parts['test'].vocabulary) for x in lines]
      answers.append(
        {'source': name}
        | dict(zip(('first', 'answer', 'second'), shown, strict=True))
      )
  return {
    'accuracy': rows,
    'bigram_weight': above.weight,
    'places': places,
    'answers': answers[:_ANSWERS],
  }


# --- encoders of both lines ---------------------------------------------------


def _retrieval(
  trained: dim_jax.Encoder, parts: Mapping[str, Any], bar: progress.Progress
) -> dict[str, Any]:
  """Retrieval among test pairs of one length, and mutual information."""
  held_out = parts['validation'].inputs
  rows = []
  scores_of: Any = trained.objective.scores
  score: Any = jax.jit(scores_of)
  for name, tested in _by_source(parts['test']).items():
    lengths = (tested[:, 0] > 0).sum(1)
    length = int(np.argmax(np.bincount(lengths)))
    pairs = tested[lengths == length][:, :, :length]
    candidates = pairs[:CANDIDATES]
    found = score(trained.variables, {'text': candidates})['global']
    scores = np.asarray(found, np.float32)
    recall = characters.recall(scores[..., 0], _MOST)
    count = len(candidates)
    row = {
      'source': name,
      'length': length,
      'candidates': count,
      **{f'recall_{k}': recall[k] for k in _MOST},
      **{f'chance_{k}': k / count for k in _MOST},
      'infonce': float(bounds.infonce(*bounds.split_pairs(found))),
      'infonce_ceiling': float(np.log(count)),
    }
    fits = (held_out[:, 0] > 0).sum(1) == length
    with bar.task(f'information of {name}', 1) as task:
      fitted = held_out[fits][:, :, :length]
      row['information'] = _information(trained, fitted, pairs)
      task.advance()
    rows.append(row)
  return {'retrieval': rows}


def _information(
  trained: dim_jax.Encoder, fitted: np.ndarray, reported: np.ndarray
) -> dict[str, Any] | None:
  """Estimates I(first; second) of the codes; None of too few pairs to fit."""
  if len(fitted) < 1000:
    return None
  first, second = (
    {side: found[side] for side in ('first', 'second')}
    for found in (trained(fitted), trained(reported))
  )
  found = estimate.estimate_mi(
    first['first'],
    first['second'],
    report=(second['first'], second['second']),
    critic='separable',
  )
  return {
    'nats': found.value,
    'standard_error': found.standard_error,
    'interval': list(found.interval),
    'ceiling': found.ceiling,
    'control': found.control,
    'sizes': found.sizes,
    'warnings': list(found.warnings),
  }


# --- tables -------------------------------------------------------------------


def summary(report: Mapping[str, Any]) -> list[Any]:
  """Lists the tables of what `measure` returned, and the notes below them."""
  parts: list[Any] = []
  if 'accuracy' in report:
    parts = [_accuracy_table(report), _answer_table(report)]
  if 'retrieval' in report:
    parts.append(_retrieval_table(report))
  return parts + tables.notes(report)


def _accuracy_table(report: Mapping[str, Any]) -> rich.table.Table:
  rows = [
    (
      row['source'],
      row['by'],
      f'{100 * row["accuracy"]:.2f}',
      f'{row["perplexity"]:.0f}',
      f'{row["nats"]:.3f}',
      f'{row["characters"]:,}',
      f'{100 * row["unknown"]:.1f}',
    )
    for row in report['accuracy']
  ]
  columns = ('source', 'by', 'right %', 'perplexity', 'nats', 'characters')
  return tables.table(
    (*columns, 'unknown %'),
    rows,
    words=2,
    title=f'{report["dataset"]}, step {report["step"]:,}: second lines',
    caption='perplexity and nats: of characters in the vocabulary',
  )


def _answer_table(report: Mapping[str, Any]) -> rich.table.Table:
  columns = ('source', 'first', 'answer', 'second')
  rows = [[row[name] for name in columns] for row in report['answers']]
  return tables.table(columns, rows, words=4, title='Answers')


def _retrieval_table(report: Mapping[str, Any]) -> rich.table.Table:
  rows = []
  for row in report['retrieval']:
    found = row['information']
    value, low, high = '', '', ''
    if found:
      value, low, high = (
        f'{x:.2f}' for x in (found['nats'], *found['interval'])
      )
    rows.append(
      (
        row['source'],
        str(row['length']),
        *(
          f'{100 * row[f"recall_{k}"]:.1f} ({100 * row[f"chance_{k}"]:.1f})'
          for k in _MOST
        ),
        f'{row["infonce"]:.2f} of {row["infonce_ceiling"]:.2f}',
        f'{value} [{low}, {high}]' if found else '',
      )
    )
  columns = ('source', 'characters', *(f'recall@{k} % (chance)' for k in _MOST))
  return tables.table(
    (*columns, 'InfoNCE, nats', 'I(first; second), nats'),
    rows,
    words=1,
    title=f'{report["dataset"]}, step {report["step"]:,}: the right second '
    'line among others',
  )
