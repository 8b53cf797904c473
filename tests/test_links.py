"""Coordinates and kinds of links, against what the numbers say: finite differences of the traced function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from autoem._links import analyse, own_coordinates, trace

X = np.random.default_rng(0).normal(size=(4, 3))
INDEX = np.array([2, 0, 1, 1, 2])

LINKS = {
    "selection": (lambda u: u[INDEX], (3,), {"pure": True, "affine": True}),
    "transposed selection": (lambda u: u.T[:, INDEX][None], (3, 2), {"pure": True}),
    "broadcast": (lambda u: jnp.broadcast_to(u[:, None], (3, 4)), (3,), {"pure": True}),
    "reshape": (lambda u: u.reshape(2, 3)[1], (6,), {"pure": True}),
    "reverse": (lambda u: u[::-1], (4,), {"pure": True}),
    "pad with data": (lambda u: jnp.concatenate([jnp.zeros(1), u]), (3,), {"pure": True}),
    "set into data": (lambda u: jnp.arange(4.0).at[1].set(u), (), {"pure": True}),
    "set twice": (lambda u: jnp.arange(4.0).at[jnp.array([1, 3])].set(u), (2,), {"pure": True}),
    "choice by data": (lambda u: jnp.where(jnp.array([True, False, True]), u, 2.0), (3,), {"pure": True}),
    "stacked": (lambda u: jnp.stack([u, jnp.ones(2)], -1), (2,), {"pure": True}),
    "multiple": (lambda u: 2.0 * u[INDEX], (3,), {"pure": False, "power": 1.0, "affine": True}),
    "inverse square root": (lambda u: 1 / jnp.sqrt(u), (3,), {"power": -0.5, "affine": False}),
    "power by data": (lambda u: u ** jnp.full(3, 3.0), (3,), {"power": 3.0, "affine": False}),
    "diagonal matrix": (lambda u: jnp.diag(u), (3,), {"affine": True}),
    "regression": (lambda u: X @ u, (3,), {"power": None, "affine": True}),
    "regression by sum": (lambda u: (X * u).sum(-1), (3,), {"power": None, "affine": True}),
    "cumulative": (lambda u: jnp.cumsum(u), (3,), {"power": None, "affine": True}),
    "shifted": (lambda u: u + 1.0, (3,), {"power": None, "affine": True}),
    "difference": (lambda u: u[1:] - u[:-1], (4,), {"power": None, "affine": True}),
    "product of two": (lambda u: u[0] * u[1], (2,), {"affine": False}),
    "exponential": (lambda u: jnp.exp(u), (2,), {"power": None, "affine": False}),
    "rounding": (lambda u: jnp.floor(u), (2,), {"power": None, "affine": False}),
    "no gradient": (lambda u: jax.lax.stop_gradient(u), (2,), {"power": None, "affine": False}),
    "absolute": (lambda u: jnp.abs(u), (2,), {"power": None, "affine": False}),
    "positive part": (lambda u: jnp.where(u > 0, u, 0.0), (2,), {"power": None, "affine": False}),
    "cast and back": (lambda u: u.astype(int).astype(float), (2,), {"power": None, "affine": False}),
    "cancelled": (lambda u: (u - u**3) + u**3, (2,), {"affine": False}),
    "softmax": (lambda u: jax.nn.softmax(u), (3,), {"power": None, "affine": False}),
    "sorted": (lambda u: jnp.sort(u), (3,), {"power": None, "affine": False}),
}


def touched(function, shape):
    """Whether output i changes with input j, by finite differences at a random point: (outputs, inputs)."""
    base = np.random.default_rng(1).uniform(0.5, 1.5, size=shape)
    size = max(1, int(np.prod(shape)))
    out = np.ravel(function(jnp.asarray(base)))
    columns = []
    for j in range(size):
        moved = base.reshape(-1).copy() if shape else np.array([base])
        moved[j] += 0.7
        columns.append(np.ravel(function(jnp.asarray(moved.reshape(shape)))) != out)
    return np.stack(columns, -1)


def dependence(function, shape):
    program, _ = trace(function, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    found = analyse(program, {program.inputs[0]: ("u", own_coordinates(shape))})
    (out,) = program.outputs
    return found.get(out), program.shape(out)


def allowed(coordinates, shape, out):
    """Which inputs each output may depend on, according to the coordinates."""
    shape = shape or (1,)
    result = np.ones((int(np.prod(out)) if out else 1, *shape), bool)
    for axis, c in enumerate(coordinates):
        if c is not None:
            own = np.broadcast_to(c, out).reshape(-1, *[1] * len(shape))
            position = np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            result &= (own == position) & (own >= 0)
    return result.reshape(result.shape[0], -1)


@pytest.mark.parametrize("name", LINKS)
def test_kind(name):
    function, shape, wanted = LINKS[name]
    found, _ = dependence(function, shape)
    assert {k: getattr(found, k) for k in wanted} == wanted


@pytest.mark.parametrize("name", LINKS)
def test_coordinates_cover_every_dependence(name):
    function, shape, _ = LINKS[name]
    found, out = dependence(function, shape)
    assert np.all(~touched(function, shape) | allowed(found.coordinates["u"], shape, out))


@pytest.mark.parametrize("name", [n for n, (_, _, w) in LINKS.items() if w.get("pure")])
def test_selections_are_elements_of_the_unknown(name):
    function, shape, _ = LINKS[name]
    found, out = dependence(function, shape)
    u = np.random.default_rng(2).normal(size=shape)
    flat = np.zeros((), int)
    for c, n in zip(found.coordinates["u"], shape or (1,), strict=True):
        flat = np.where((c < 0) | (flat < 0), -1, flat * n + c)
    flat = np.broadcast_to(flat, out)
    value = np.asarray(function(jnp.asarray(u)))
    assert (flat >= 0).any()
    np.testing.assert_array_equal(value[flat >= 0], np.ravel(u)[flat[flat >= 0]])


STEPS = {
    "gather": lambda draw, v: v[jnp.asarray(draw(st.lists(st.integers(0, v.shape[0] - 1), min_size=1, max_size=4)))],
    "transpose": lambda draw, v: v.T,
    "reverse": lambda draw, v: jnp.flip(v, draw(st.integers(0, v.ndim - 1))),
    "expand": lambda draw, v: jnp.broadcast_to(v[:, None], (v.shape[0], 2, *v.shape[1:])),
    "flatten": lambda draw, v: v.reshape(-1),
    "split": lambda draw, v: v.reshape(v.shape[0], -1),
    "append data": lambda draw, v: jnp.concatenate([v, jnp.ones_like(v)[:1]], 0),
    "slice": lambda draw, v: v[:: draw(st.integers(1, 2))],
    "sum": lambda draw, v: v.sum(-1, keepdims=True),
    "add": lambda draw, v: v + jnp.flip(v, 0),
    "matrix product": lambda draw, v: v @ jnp.ones((v.shape[-1], 2)),
    "cumulative": lambda draw, v: jnp.cumsum(v, draw(st.integers(0, v.ndim - 1))),
    "column": lambda draw, v: v.at[draw(st.integers(0, v.shape[0] - 1))].set(0.5),
    "take along": lambda draw, v: jnp.take_along_axis(v, jnp.zeros((1,) * v.ndim, int), 0),
    "vmapped pick": lambda draw, v: jax.vmap(lambda row: row[jnp.array([0, 0])])(v.reshape(v.shape[0], -1)),
}


@given(st.data())
def test_random_programs_never_hide_a_dependence(data):
    shape = data.draw(st.sampled_from([(3,), (2, 3), (4, 1), (2, 2, 2)]))
    names = data.draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
    choices = {}

    def function(u):
        value = u
        for position, name in enumerate(names):

            def draw(strategy, position=position):
                """One choice per step, the same each time the function is evaluated."""
                if position not in choices:
                    choices[position] = data.draw(strategy)
                return choices[position]

            value = STEPS[name](draw, value)
        return value

    found, out = dependence(function, shape)
    if found is None:
        assert not touched(function, shape).any()
        return
    assert np.all(~touched(function, shape) | allowed(found.coordinates["u"], shape, out))
