# ruff: noqa: E501 (an instruction is one line)
"""What is read from compiled programs, against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dim_jax.runs import hlo
from dim_jax.training import parallel
from experiments.benchmarks import harness

# As the compiler for TPUs writes: no note of how often a loop turns, layouts
# with brackets, one array's shape in several notations.
TEXT = """HloModule jit_f, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_product (p.0: f32[8,4], p.1: bf16[4,4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %p.1 = bf16[4,4]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = f32[8,4]{1,0:T(8,128)} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%body (state: (s32[], f32[8,4], bf16[4,4], s32[])) -> (s32[], f32[8,4]) {
  %one = s32[]{:T(128)} constant(1)
  %state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}, bf16[4,4], s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %w = bf16[4,4]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %n = s32[]{:T(128)} get-tuple-element(%state), index=3
  %j = s32[]{:T(128)} add(%i, %one)
  %y = f32[8,4]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%fused_product
  %z = f32[8,4]{1,0:T(8,128)S(1)} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add
  ROOT %next = (s32[]{:T(128)}, f32[8,4]{1,0}, bf16[4,4], /*index=3*/s32[]) tuple(%j, %z, %w, %n)
}

%condition (state.1: (s32[], f32[8,4], bf16[4,4], s32[])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,4]{1,0}, bf16[4,4], s32[]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=3
  ROOT %less = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT
}

%gathering (q: bf16[2,3]) -> bf16[8,3] {
  %q = bf16[2,3]{1,0} parameter(0)
  ROOT %g = bf16[8,3]{1,0} all-gather(%q), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (arg.0: f32[8,4], arg.1: bf16[4,4], arg.2: bf16[2,3]) -> f32[] {
  %arg.0 = f32[8,4]{1,0} parameter(0)
  %arg.1 = bf16[4,4]{1,0} parameter(1)
  %arg.2 = bf16[2,3]{1,0} parameter(2)
  %two = s32[]{:T(128)} constant(2)
  %start = s32[]{:T(128)} copy(%two)
  %nine = s32[]{:T(128)} constant(9)
  %first = (s32[], f32[8,4]{1,0}, bf16[4,4], s32[]) tuple(%start, %arg.0, %arg.1, %nine)
  %loop = (s32[], f32[8,4]{1,0}, bf16[4,4], s32[]) while(%first), condition=%condition, body=%body
  %s = ((bf16[2,3]{1,0}), bf16[8,3]{1,0}, u32[]) async-start(%arg.2), calls=%gathering
  %u = ((bf16[2,3]{1,0}), bf16[8,3]{1,0}, u32[]) async-update(%s), calls=%gathering
  %d = bf16[8,3]{1,0} async-done(%u), calls=%gathering
  %h = (f32[2,5]{1,0:T(8,128)}, f32[8,5]{1,0:T(8,128)}) all-gather-start(%arg.0), replica_groups={}, dimensions={0}
  %hd = f32[8,5]{1,0:T(8,128)} all-gather-done(%h)
  %c = (f32[3]{0}, f32[3]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%arg.0), source_target_pairs={{0,1},{1,0}}
  %cd = f32[3]{0} collective-permute-done(%c)
  %e = ((f32[20]{0}), f32[5]{0}) reduce-scatter-start(%cd), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %ed = f32[5]{0} reduce-scatter-done(%e)
  ROOT %r = f32[2]{0} reduce-scatter(%cd), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}
"""


def test_the_text_of_a_compiler_for_tpus():
  # The loop counts from 2 to 9, a number that it carries along.
  assert hlo.collectives(TEXT, 4) == [
    hlo.Collective('all-reduce', 8 * 4 * 4, 2, 7, True),
    hlo.Collective('all-gather', 8 * 3 * 2, 4, 1, False),
    hlo.Collective('all-gather', 8 * 5 * 4, 4, 1, False),
    hlo.Collective('collective-permute', 3 * 4, 4, 1, False),
    # What each takes: four times what it is left with.
    hlo.Collective('reduce-scatter', 4 * 5 * 4, 4, 1, False),
    hlo.Collective('reduce-scatter', 4 * 2 * 4, 4, 1, False),
  ]
  # Two operations a weight and row, in the six turns after the first.
  assert hlo.repeated_flops(TEXT) == 6 * 2 * 8 * 4 * 4


def test_an_exchange_in_several_fusions_is_one():
  # As the compiler for TPUs writes: both are of one channel, and the last one is
  # fused with other work but in one part.
  part = (
    ', backend_config={"async_collective_fusion_config":{"flag_start":"2"}}'
  )
  start = '  ROOT %s = f32[8]{0} custom-call(%g), custom_call_target='
  kinds = (
    (part, start + '"AsyncCollectiveStart"\n'),
    (part, '  ROOT %n = f32[8]{0} negate(%g)\n'),
    (part, start + '"AsyncCollectiveDone"\n'),
  )
  bodies = (*kinds, *kinds, ('', '  ROOT %n = f32[8]{0} negate(%g)\n'))
  parts = '\n'.join(
    f'%part_{i} (p: f32[2]) -> f32[8] {{\n'
    '  %p = f32[2]{0} parameter(0)\n'
    f'  %g = f32[8]{{0}} all-gather(%p), channel_id=1, '
    f'replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}{config}\n{root}}}\n'
    for i, (config, root) in enumerate(bodies)
  )
  calls = '\n'.join(
    f'  %f{i} = f32[8]{{0}} fusion(%a), kind=kCustom, calls=%part_{i}'
    for i in range(len(bodies))
  )
  text = f'{parts}\nENTRY %main (a: f32[2]) -> f32[8] {{\n'
  text += f'  %a = f32[2]{{0}} parameter(0)\n{calls}\n}}\n'
  gather = hlo.Collective('all-gather', 32, 4, 1, False)
  assert hlo.collectives(text, 4) == [gather] * 3


@pytest.mark.parametrize(
  ('groups', 'size'),
  [
    ('{{0,1,2},{3,4,5}}', 3),
    ('[4,2]<=[2,4]T(1,0)', 2),
    ("mesh['x'=2,'y'=4] {'y'}", 4),
    ("mesh['x'=2,'y'=4] {'x','y'}", 8),
    # Halves of an axis of four.
    ("mesh['x'=2,'y'=4] {'x','y':(1)2}", 4),
    ("mesh['x'=2,'y'=4] {'y:(2)2'}", 2),
    ('{}', 8),
  ],
)
def test_groups_in_every_notation(groups, size):
  text = (
    'ENTRY %main (a: f32[2]) -> f32[2] {\n  %a = f32[2]{0} parameter(0)\n'
    f'  %r = f32[2]{{0}} all-reduce(%a), replica_groups={groups}, '
    'use_global_device_ids=true, to_apply=%add\n}\n'
  )
  assert hlo.collectives(text, 8) == [
    hlo.Collective('all-reduce', 8, size, 1, False)
  ]


def test_what_a_device_sends():
  def sent(kind, group):
    return hlo.Collective(kind, 120, group, 3, True).sent

  # Each of 4 passes a quarter on 3 times; to reduce, and then to gather.
  assert sent('all-gather', 4) == 3 * 3 * 30
  assert sent('reduce-scatter', 4) == 3 * 3 * 30
  assert sent('all-reduce', 4) == 3 * 6 * 30
  assert sent('all-to-all', 4) == 3 * 3 * 30
  assert sent('collective-permute', 4) == 3 * 120
  assert sent('all-reduce', 1) == 0


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ('f32[2,3]{1,0:T(8,128)(2,1)S(1)}', 24),
    ('(bf16[5], /*index=1*/(s8[3]{0}, pred[]), token[])', 10 + 3 + 1),
    ('s4[3]', 2),
    ('c64[2]', 16),
    ('f8e4m3fn[7]', 7),
  ],
)
def test_bytes_of_shapes(shape, size):
  assert hlo.num_bytes(shape) == size


def _compiled(f, in_specs, out_specs, *shapes):
  mesh = parallel.make_mesh(8)
  mapped = jax.shard_map(
    f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(mapped).lower(*arguments).compile()


def test_each_kind_on_eight_devices():
  def f(x):  # [2, 8] on each
    gathered = jax.lax.all_gather(x, 'data', tiled=True)
    back = jax.lax.psum_scatter(gathered**2, 'data', tiled=True)
    swapped = jax.lax.all_to_all(back, 'data', 1, 1, tiled=True)
    pairs = [(i, i ^ 1) for i in range(8)]
    return jax.lax.ppermute(swapped, 'data', pairs)

  compiled = _compiled(f, P('data'), P('data'), (16, 8))
  found = hlo.collectives(compiled.as_text(), 8)
  whole, part = 16 * 8 * 4, 2 * 8 * 4
  expected = {
    'all-gather': whole,
    'reduce-scatter': whole,
    'all-to-all': part,
    'collective-permute': part,
  }
  assert {x.kind: x.bytes for x in found} == expected
  assert [x[2:] for x in found] == [(8, 1, False)] * 4


def test_loops_multiply():
  def f(x, w):  # [4, 8] on each, and [8, 8]
    def outer(_, x):
      def inner(x, _):
        return jax.lax.psum(jnp.tanh(x @ w), 'data') / 8, None

      x, _ = jax.lax.scan(inner, x, length=3)
      return jax.lax.psum(jnp.sin(x), 'data')

    return jax.lax.psum(jax.lax.fori_loop(0, 5, outer, x), 'data')

  compiled = _compiled(f, (P('data'), P()), P(), (32, 8), (8, 8))
  found = hlo.collectives(compiled.as_text(), 8)
  assert {x.kind for x in found} == {'all-reduce'}
  # Of [4, 8] each, and of what is summed after the loops.
  assert {x.bytes for x in found} == {4 * 8 * 4}
  looped = sorted(x.times for x in found if x.looped)
  assert looped == [5, 5 * 3]
  assert sum(x.times for x in found) == 15 + 5 + 1
  # 15 products, of which the compiler counts one.
  product = 2 * 4 * 8 * 8
  assert hlo.repeated_flops(compiled.as_text()) == 14 * product


@pytest.mark.parametrize('kind', ['product', 'convolution'])
def test_products_in_loops_against_a_count_of_the_program(kind):
  @functools.partial(jax.grad, argnums=(0, 1))
  def f(kernel, x):
    def body(x, _):
      if kind == 'product':
        return jnp.tanh(x @ kernel), None
      y = jax.lax.conv_general_dilated(x, kernel, (1,), 'VALID')
      return jnp.pad(jnp.tanh(y), ((0, 0), (0, 0), (2, 0))), None

    return jax.lax.scan(body, x, length=6)[0].sum()

  shapes = {'product': ((5, 5), (3, 5)), 'convolution': ((4, 4, 3), (2, 4, 12))}
  arguments = [jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes[kind]]
  counted = harness.product_flops(jax.make_jaxpr(f)(*arguments).jaxpr)
  compiled = jax.jit(f).lower(*arguments).compile()
  # All products are in loops of six turns.
  assert hlo.repeated_flops(compiled.as_text()) == counted * 5 / 6


def test_a_loop_of_unknown_length_counts_once():
  def f(x):
    return jax.lax.while_loop(
      lambda x: x.max() < 100, lambda x: jax.lax.psum(x, 'data'), x
    )

  compiled = _compiled(f, P('data'), P('data'), (8,))
  found = hlo.collectives(compiled.as_text(), 8)
  assert [(x.bytes, x.times, x.looped) for x in found] == [(4, 1, True)]


def test_both_branches_of_a_condition_count():
  def f(flag, x):
    return jax.lax.cond(
      flag[0] > 0,
      lambda x: jax.lax.psum(x, 'data'),
      lambda x: jax.lax.pmax(x, 'data') * 2,
      x,
    )

  compiled = _compiled(f, (P(), P('data')), P(), (1,), (16,))
  found = hlo.collectives(compiled.as_text(), 8)
  assert np.all([x[:2] == ('all-reduce', 8) for x in found])
  assert len(found) == 2
