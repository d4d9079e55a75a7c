"""The scripts that launch jobs, as far as no cluster is needed."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from dim_jax.commands import train
from dim_jax.training import hosts

LAUNCH = pathlib.Path('experiments/launch')
CONFIG = '--config=dim_cifar10'
# One argument with spaces and a quote: it must arrive as one.
COMMAND = ['dim-jax', 'train', CONFIG, "--workdir=/a b's/run"]


def dry_run(script, *arguments, **variables):
  done = subprocess.run(
    [LAUNCH / script, *arguments],
    env=os.environ | {'DRY_RUN': '1'} | variables,
    capture_output=True,
    text=True,
    check=True,
  )
  return shlex.split(done.stdout)


@pytest.mark.parametrize('script', ['gcloud_tpu.sh', 'slurm.sh'])
def test_a_script_without_a_command_shows_its_use(script):
  done = subprocess.run([LAUNCH / script], capture_output=True, text=True)
  assert done.returncode == 2 and done.stdout == ''
  assert f'experiments/launch/{script}' in done.stderr
  assert 'DRY_RUN=1' in done.stderr


def test_gcloud_runs_the_command_on_every_worker():
  words = dry_run('gcloud_tpu.sh', 'pod', 'us-east5-b', *COMMAND, FOLDER='src')
  assert words[:6] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'pod']
  assert words[6:8] == ['--zone=us-east5-b', '--worker=all']
  remote = words[8].removeprefix('--command=')
  # What the shell of a host makes of it.
  told = remote.split('&&')[1]
  assert shlex.split(told)[1:] == COMMAND
  assert remote.startswith('cd src && PATH=$PWD/.venv/bin:$PATH ')


def test_slurm_runs_the_command_as_a_step():
  words = dry_run('slurm.sh', *COMMAND)
  assert words[0] == 'srun' and words[-len(COMMAND) :] == COMMAND


def test_slurm_goes_on_behind_a_save_alone(tmp_path):
  calls = tmp_path / 'calls'
  for name, text in {
    'srun': 'exit ${STATUS}',
    'scontrol': f'echo "$@" > {calls}',
  }.items():
    program = tmp_path / name
    program.write_text(f'#!/bin/sh\n{text}\n')
    program.chmod(0o755)
  path = f'{tmp_path}:{os.environ["PATH"]}'
  for status, requeued in (('0', False), ('1', False), ('143', True)):
    calls.unlink(missing_ok=True)
    done = subprocess.run(
      [LAUNCH / 'slurm.sh', 'true'],
      env=os.environ | {'PATH': path, 'STATUS': status, 'SLURM_JOB_ID': '7'},
    )
    assert done.returncode == int(status)
    assert calls.exists() == requeued
  assert calls.read_text() == 'requeue 7\n'


def test_the_job_set_starts_processes_that_find_one_another(monkeypatch):
  spec = yaml.safe_load((LAUNCH / 'jobset.yaml').read_text())
  assert spec['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  (jobs,) = spec['spec']['replicatedJobs']
  job = jobs['template']['spec']
  assert job['completionMode'] == 'Indexed'
  assert job['completions'] == job['parallelism']
  pod = job['template']['spec']
  (container,) = pod['containers']
  variables = {x['name']: x for x in container['env']}
  for process in range(job['parallelism']):
    for name, x in variables.items():
      # The index of a pod in its job, as Kubernetes fills it in.
      monkeypatch.setenv(name, x.get('value', str(process)))
    address, count, found, _ = hosts._described(None)
    # <JobSet>-<job>-<replica>-<pod>.<JobSet>
    name = spec['metadata']['name']
    host, _, port = address.partition(':')
    assert host == f'{name}-{jobs["name"]}-0-0.{name}'
    assert int(port) in [x['containerPort'] for x in container['ports']]
    assert (count, found) == (job['parallelism'], process)
  # Chips of all hosts are those of the topology.
  rows, columns = map(
    int,
    re.findall(
      r'\d+', pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
    ),
  )
  chips = container['resources']['limits']['google.com/tpu']
  assert rows * columns == chips * job['parallelism']
  shell, flag, command = container['command']
  assert (shell, flag) == ('bash', '-c')
  words = shlex.split(command)
  assert words[:3] == ['exec', '.venv/bin/dim-jax', 'train']
  assert train.parse(words[2:]) == []
