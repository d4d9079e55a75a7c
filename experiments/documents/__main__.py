"""Writes the generated parts of README.md and docs/ anew.

  python -m experiments.documents

They are made of experiments/results/; a document says where, see `markdown`.
"""

from experiments.documents import (
  bottleneck,
  energies,
  fields,
  information,
  lines,
  markdown,
  modules,
  overview,
  representations,
  several_hosts,
  speed,
)

_TABLES = (
  bottleneck.forgetting,
  bottleneck.vib,
  bottleneck.vib_attacks,
  bottleneck.vib_sweep,
  energies.mixtures,
  energies.rbm,
  energies.stein_gan,
  energies.svgd_posterior,
  energies.svgd_variance,
  fields.fields,
  information.coverage,
  information.estimators,
  information.mi_fit,
  information.scores,
  information.staircase,
  lines.couplets_infonce,
  lines.couplets_tagging,
  lines.masked_lines,
  modules.gim_cifar10,
  modules.own_pace,
  modules.spoken_digit,
  modules.spoken_speaker,
  modules.spoken_speaker_100,
  representations.cifar10_command,
  representations.cifar10_long,
  representations.cifar10_recipe,
  representations.cifar10_variations,
  representations.cifar10_short,
  representations.cifar10_table,
  representations.critics,
  representations.demo,
  representations.digits_table,
  representations.few_labels,
  representations.masks,
  representations.priors,
  representations.priors_later,
  representations.priors_matched,
  representations.structure,
  representations.su_digits,
  representations.su_mnist,
  several_hosts.faults,
  several_hosts.layouts,
  several_hosts.slices,
  speed.baseline_steps,
  speed.memory,
  speed.particles,
  speed.reproducibility,
  speed.sizes,
  speed.small_encoders,
  speed.steps,
  speed.sweep_step,
  speed.time_to_accuracy,
)
PARTS = {table.__name__: table for table in _TABLES} | {
  'methods': lambda: overview.methods('docs/'),
  'methods_in_docs': lambda: overview.methods('../'),
}


def main() -> None:
  """Rewrites what has changed, and prints the files' names."""
  for path in markdown.documents():
    old = path.read_text(encoding='utf-8')
    new = markdown.filled(old, PARTS)
    if new != old:
      path.write_text(new, encoding='utf-8')
      print(path.relative_to(markdown.ROOT))


if __name__ == '__main__':
  main()
