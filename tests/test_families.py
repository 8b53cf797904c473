"""Properties of the exponential-family form, crossed with the table of families."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose

from autoem._family import (
    FAMILIES,
    LOG_ZERO,
    Circular,
    Flat,
    InverseMatrix,
    LogOdds,
    LogPower,
    LogSimplex,
    Quadratic,
    find_family,
)
from autoem._wrappers import argument
from tests.families import ROWS, Row, log_density

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # runs once
EVERY_ROW = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
EVERY_CLOSED = pytest.mark.parametrize(
    ("row", "name"),
    [(row, name) for row in ROWS.values() for name in row.closed],
    ids=[f"{label} {name}" for label, row in ROWS.items() for name in row.closed],
)


def evaluate(conditional: Any, u: Any) -> Any:
    """The log density that a conditional stands for, elementwise over its leading axes."""
    match conditional:
        case Flat():
            return jnp.zeros(())
        case LogPower(log, power, exponent):
            return log * jnp.log(u) + power * u**exponent
        case Quadratic(precision, linear, 0):
            return linear * u - precision * u**2 / 2
        case Quadratic(precision, linear, 1):
            return jnp.sum(linear * u, -1) - jnp.einsum("...i,...ij,...j->...", u, precision, u) / 2
        case LogSimplex(counts, logits):
            return jnp.sum(counts * jnp.log(jax.nn.softmax(u) if logits else u), -1)
        case LogOdds(successes, failures, logits):
            p = jax.nn.sigmoid(u) if logits else u
            return successes * jnp.log(p) + failures * jnp.log(1 - p)
        case Circular(cosine, sine):
            return cosine * jnp.cos(u) + sine * jnp.sin(u)
        case InverseMatrix(count, scatter, form):
            inverse = jnp.linalg.inv(u @ jnp.swapaxes(u, -1, -2) if form == "cholesky" else u)
            precision = u if form == "precision" else inverse
            return (count * jnp.linalg.slogdet(precision)[1] - jnp.einsum("...ij,...ji", precision, scatter)) / 2
    raise AssertionError(f"no formula for {type(conditional).__name__}")


def parts(fn: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The family, its arguments as the package fetches them, and those of them that are constants."""
    family = find_family(fn)
    assert family is not None
    arguments = {name: argument(fn, name) for name in family.argument_ndims}
    return family, arguments, {name: arguments[name] for name in family.constants}


def density(fn: Any, value: Any) -> Any:
    """Our log density of values, for known arguments."""
    return compiled(lambda x: log_density(*parts(fn), x))(value)


def uneven(row: Row) -> dict[str, tuple[int, ...]]:
    """Batch shapes that broadcast: a column, a row, a number."""
    shapes = [(4, 1), (3,), ()]
    return {name: shapes[i % 3] for i, name in enumerate(row.arguments)}


def shared_constants(row: Row) -> dict[str, tuple[int, ...]]:
    """Three independent elements that share the constants."""
    fn = row.constructor(**row.draw(np.random.default_rng(0), dict.fromkeys(row.arguments, ())))
    constants = find_family(fn).constants
    return {name: () if name in constants else (3,) for name in row.arguments}


class Case:
    """A row at work: random arguments of given batch shapes, and values from the support.

    `fn` rebuilds the distribution inside a traced function: the constants stay known, the rest is traced.
    """

    def __init__(self, row: Row, batches: dict[str, tuple[int, ...]], size: tuple[int, ...] = (5,)) -> None:
        rng = np.random.default_rng(0)
        self.row = row
        drawn = row.draw(rng, batches)
        fn = row.constructor(**drawn)
        self.family, self.arguments, _ = parts(fn)
        self.value = row.values(rng, (*size, *fn.batch_shape), **drawn)
        self.weights = rng.exponential(size=(*size, *fn.batch_shape, 1))
        self.drawn = drawn
        self.traced = {name: a for name, a in drawn.items() if name not in self.family.constants}

    def fn(self, traced: Any) -> Any:
        return self.row.constructor(**{**self.drawn, **traced})

    def scipy(self) -> np.ndarray:
        """SciPy's log density, element by element of the batch."""
        batch = self.weights.shape[1:-1]
        result = np.empty(self.weights.shape[:-1])
        whole = {}
        for name, a in self.drawn.items():
            event = a.shape[a.ndim - self.row.events.get(name, 0) :]
            whole[name] = np.broadcast_to(a, (*batch, *event))
        for index in np.ndindex(batch):
            at = (slice(None), *index)
            result[at] = self.row.scipy(self.value[at], {name: a[index] for name, a in whole.items()})
        return result

    def shifts(self) -> list[dict[str, Any]]:
        """The constants that centring adds: none, and, where the family centres, some number."""
        return [{}] if self.family.centre(self.value) is None else [{}, {"shift": 0.3}]


def values_and_slopes(functions: Any, points: np.ndarray) -> Any:
    """Of each function at each point, and along the way to the next (supports are convex)."""
    ways = jnp.roll(points, -1, 0) - points
    return jax.vmap(lambda u, way: jax.jvp(lambda v: [f(v) for f in functions], (u,), (way,)))(points, ways)


def assert_same_up_to_a_constant(results: Any) -> None:
    """All functions differ from the first by a number, the same at all points, and have its slopes."""
    (value, *values), (slope, *slopes) = results
    size = 1 + np.max(np.abs(value))
    for other in values:
        difference = value - other
        assert_allclose(difference, np.broadcast_to(difference[0], difference.shape), atol=1e-10 * size)
    for other in slopes:
        assert_allclose(other - slope, np.zeros_like(slope), atol=1e-10 * (1 + np.max(np.abs(slope))))


COUNTS = [label for label in ROWS if label.partition(" ")[0] in ("Bernoulli", "Binomial", "Categorical", "Multinomial")]


@pytest.mark.parametrize("label", COUNTS)
def test_counts_add_up_to_their_total(label: str) -> None:
    """What lets an E-step leave one of them out."""
    case = Case(ROWS[label], uneven(ROWS[label]))
    constants = {n: case.arguments[n] for n in case.family.constants}
    found = np.sum(case.family.statistics(case.value, constants), -1)
    assert_allclose(found, np.broadcast_to(case.family.total(constants), found.shape), rtol=1e-14)


@EVERY_ROW
def test_equals_numpyro_and_scipy(row: Row) -> None:
    """⟨slots, T⟩ + log h is the log density, for arguments of different shapes, centred or not."""
    case = Case(row, uneven(row))

    @compiled
    def densities(traced: Any, value: Any) -> Any:
        fn = case.fn(traced)
        family, arguments, constants = parts(fn)
        ours = [log_density(family, arguments, constants | shift, value) for shift in case.shifts()]
        return fn.log_prob(value), ours

    expected, ours = densities(case.traced, case.value)
    for result in ours:
        assert result.shape == expected.shape
        assert_allclose(result, expected, rtol=row.numpyro_rtol, atol=row.numpyro_rtol)
        if row.scipy is not None:
            assert_allclose(result, case.scipy(), rtol=1e-10, atol=1e-10)


@EVERY_CLOSED
def test_argument_conditional(row: Row, name: str) -> None:
    """An argument's conditional is ⟨slots, S⟩ as a function of it, up to a constant; finite for S = 0."""
    case = Case(row, shared_constants(row))
    points = row.arguments[name](np.random.default_rng(1), (3, 3))

    @compiled
    def compare(traced: Any, value: Any, points: Any) -> Any:
        family, arguments, constants = parts(case.fn(traced))
        constants |= case.shifts()[-1]
        statistics = jnp.sum(case.weights * family.statistics(value, constants), 0)
        conditional, empty = (
            family.argument_conditional(name, total, arguments, constants)
            for total in (statistics, jnp.zeros_like(statistics))
        )

        def inner(u: Any) -> Any:
            return jnp.sum(family.slots({**arguments, name: u}, constants) * statistics, -1)

        return values_and_slopes([inner, lambda u: evaluate(conditional, u)], points), empty

    results, empty = compare(case.traced, case.value, points)
    assert_same_up_to_a_constant(results)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(empty))


@EVERY_ROW
def test_value_conditional(row: Row) -> None:
    """A value's conditional is NumPyro's log density as a function of it, up to a constant."""
    case = Case(row, shared_constants(row), (3,))
    conditional = case.family.value_conditional(case.arguments)
    if row.value is None:
        assert conditional is None
        return
    assert type(conditional) is row.value

    @compiled
    def compare(traced: Any, points: Any) -> Any:
        fn = case.fn(traced)
        family, arguments, _ = parts(fn)
        conditional = family.value_conditional(arguments)
        return values_and_slopes([fn.log_prob, lambda u: evaluate(conditional, u)], points)

    assert_same_up_to_a_constant(compare(case.traced, case.value))


@EVERY_ROW
def test_maps_and_single_precision(row: Row) -> None:
    """The same under vmap, over values and arguments; the same in float32, where all is finite float32."""
    case = Case(row, shared_constants(row))
    axis = 1 if case.traced else 0

    def density(traced: Any, value: Any) -> Any:
        return log_density(*parts(case.fn(traced)), value)

    def everything(traced: Any, value: Any) -> Any:
        family, arguments, constants = parts(case.fn(traced))
        statistics, slots = family.statistics(value, constants), family.slots(arguments, constants)
        closed = [family.argument_conditional(name, statistics, arguments, constants) for name in row.closed]
        return density(traced, value), statistics, slots, closed, family.value_conditional(arguments)

    mapped = jax.vmap(density, in_axes=(0, axis), out_axes=axis)
    result, expected = compiled(lambda *args: (mapped(*args), density(*args)))(case.traced, case.value)
    assert_allclose(result, expected, rtol=1e-10, atol=1e-10)
    with jax.enable_x64(False):
        result, *rest = compiled(everything)(case.traced, case.value)
    for leaf in jax.tree.leaves((result, rest)):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
    assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


@EVERY_ROW
def test_static_description(row: Row) -> None:
    """A family is static and comparable, speaks of its statistics, and never overstates what is closed."""
    case = Case(row, shared_constants(row))
    family, arguments = case.family, case.arguments
    constants = {name: arguments[name] for name in family.constants}
    assert jax.tree.leaves(family) == []
    assert family == find_family(case.fn({})) and hash(family) == hash(find_family(case.fn({})))
    assert {*family.constants, *family.coupled} <= set(arguments)
    assert family.name == family.name.lower()
    assert all(isinstance(name, str) and name for name in family.describe_statistics())
    statistics = family.statistics(case.value, constants)
    if family.describe_statistics()[0] == "1":
        assert_allclose(statistics[..., 0], 1.0, rtol=0)  # `_evidence/_products.py` counts on it
    statistics = jnp.ones(statistics.shape[1:])
    for name in {*row.numeric, *family.constants}:
        assert family.argument_conditional(name, statistics, arguments, constants) is None


def test_every_family_has_a_row() -> None:
    """The table of tests is complete."""
    assert {type(Case(row, shared_constants(row)).family) for row in ROWS.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("fn", "possible", "impossible"),
    [
        (dist.BernoulliProbs(0.0), 0, 1),
        (dist.BernoulliProbs(1.0), 1, 0),
        (dist.BernoulliLogits(np.inf, validate_args=False), 1, 0),
        (dist.BinomialProbs(0.0, 3), 0, 1),
        (dist.BinomialProbs(1.0, 3), 3, 2),
        (dist.MultinomialProbs(np.array([0.0, 1.0]), 3), np.array([0, 3]), np.array([1, 2])),
        (dist.CategoricalProbs(np.array([0.0, 1.0])), 1, 0),
        (dist.GeometricProbs(1.0), 0, 1),
        (dist.NegativeBinomialProbs(2.5, 0.0, validate_args=False), 0, 1),
        (dist.Poisson(0.0), 0, 1),
    ],
    ids=lambda case: type(case).__name__,
)
def test_exact_zeros(fn: Any, possible: Any, impossible: Any) -> None:
    """A probability of exactly zero excludes values, and leaves the others certain."""
    assert_allclose(density(fn, possible), 0, atol=1e-12)
    assert density(fn, impossible) <= LOG_ZERO / 10


@pytest.mark.parametrize(
    ("fn", "outside"),
    [(dist.Uniform(-1.0, 2.0), [-1.1, 2.1]), (dist.Pareto(1.5, 2.0), [1.4, 0.0, -1.0])],
    ids=["Uniform", "Pareto"],
)
def test_known_bounds_are_kept(fn: Any, outside: list[float]) -> None:
    """Outside known bounds the density is zero, where NumPyro extends the formula; T is finite."""
    family, _, constants = parts(fn)
    value = np.array(outside)
    assert np.all(density(fn, value) <= LOG_ZERO / 10)
    assert np.all(np.isfinite(family.statistics(value, constants)))


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_bernoulli_values_of_any_type(dtype: type) -> None:
    """0/1 values may be booleans, whole numbers or floats."""
    value = np.array([0, 1, 1]).astype(dtype)
    for fn in (dist.Bernoulli(probs=0.3), dist.Bernoulli(logits=-0.5)):
        expected = fn.log_prob(value.astype(float))
        assert_allclose(density(fn, value), expected, rtol=1e-12)


def test_weibull_exponent_is_one_known_number() -> None:
    """There is no closed form where the concentration differs between elements, or is traced."""
    family = find_family(dist.Weibull(1.0, 1.5))

    def conditionals(concentration: Any) -> Any:
        arguments = {"scale": jnp.ones(2), "concentration": concentration}
        return family.argument_conditional("scale", jnp.ones((2, 2)), arguments, arguments)

    assert conditionals(np.array([1.5, 1.5])).exponent == -1.5
    assert conditionals(np.array([1.5, 2.0])) is None
    assert jax.jit(conditionals)(1.5) is None


@pytest.mark.parametrize(
    "fn",
    [dist.Gumbel(3.0), dist.HalfCauchy(1.0), dist.NegativeBinomial2(1.0, 2.0)],
    ids=lambda fn: type(fn).__name__,
)
def test_others_are_declined(fn: Any) -> None:
    """What is not in the table is not recognised."""
    assert find_family(fn) is None
