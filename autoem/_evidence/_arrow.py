"""Precisions in the shape of an arrow: many small blocks that meet each other through one border only.

    A = ⎡ D   E ⎤   D block diagonal,   G = D⁻¹ E,   S = C - E' D⁻¹ E
        ⎣ E'  C ⎦

The blocks are eliminated first, and what is left for the border is S (George 1973; for crossed random effects Bates and
DebRoy 2004). Of A⁻¹ only what rows with precisions of their own can meet is formed: the border's S⁻¹, the blocks'
D⁻¹ + G S⁻¹ G', and -G S⁻¹ between the two.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Leaf


class Arrow(eqx.Module):
    """What is where. Slots count through the blocks, then through the border.

    Attributes:
        blocks, width: how many blocks there are, and their slots.
        border: slots of the border.
    """

    blocks: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    border: int = eqx.field(static=True)

    @property
    def inner(self) -> int:
        """Slots of all blocks."""
        return self.blocks * self.width

    @property
    def size(self) -> int:
        """Numbers in (D, E, C)."""
        return self.inner * (self.width + self.border) + self.border**2

    def address(self, first: Array, second: Array) -> Array:
        """Where the entry of two slots is among the numbers of (D, E, C); `size` where there is none."""
        low, high = jnp.minimum(first, second), jnp.maximum(first, second)
        inside = first * self.width + second % self.width
        across = self.inner * self.width + low * self.border + high - self.inner
        corner = self.inner * (self.width + self.border) + (first - self.inner) * self.border + second - self.inner
        at = jnp.where(high < self.inner, inside, jnp.where(low < self.inner, across, corner))
        apart = (high < self.inner) & (low // self.width != high // self.width)
        return jnp.where((low < 0) | apart, self.size, at)

    def gathered(self, pairs: Array, slots: Array) -> Array:
        """(D, E, C) as numbers (Q, size), from terms (Q, R, T, T) of the slots (Q, R, T) that rows meet."""
        first, second = slots[..., :, None], slots[..., None, :]
        once = (first < self.inner) | (second >= self.inner)  # E is held, its transpose is not
        at = jnp.where(once, self.address(first, second), self.size)
        numbers = jnp.zeros((pairs.shape[0], self.size + 1), pairs.dtype)
        return jax.vmap(lambda n, i, p: n.at[i].add(p))(numbers, at, pairs)[:, :-1]

    def diagonal(self, values: Array) -> Array:
        """A diagonal matrix (Q, slots) as numbers (Q, size)."""
        slots = jnp.arange(self.inner + self.border)
        return jnp.zeros((len(values), self.size), values.dtype).at[:, self.address(slots, slots)].set(values)

    def parts(self, numbers: Array) -> tuple[Array, Array, Array]:
        """D (Q, blocks, width, width), E (Q, blocks, width, border) and C (Q, border, border)."""
        lead, at = numbers.shape[:-1], self.inner * self.width
        inside, across, corner = jnp.split(numbers, [at, at + self.inner * self.border], -1)
        return (
            jnp.reshape(inside, (*lead, self.blocks, self.width, self.width)),
            jnp.reshape(across, (*lead, self.blocks, self.width, self.border)),
            jnp.reshape(corner, (*lead, self.border, self.border)),
        )

    def halves(self, vectors: Array) -> tuple[Array, Array]:
        """(Q, n, slots) of the blocks (Q, n, blocks, width), and of the border (Q, n, border)."""
        blocks = jnp.reshape(vectors[..., : self.inner], (*vectors.shape[:-1], self.blocks, self.width))
        return blocks, vectors[..., self.inner :]


class ArrowSolution(eqx.Module):
    """The posterior of a group whose precision is an arrow.

    Attributes:
        arrow: its shape.
        mean: (Q, n, slots).
        roots: (Q, blocks, width, width) lower Cholesky factors of D; gain: G (Q, blocks, width, border).
        root: (Q, border, border) that of S.
        numbers: (Q, size) what is held of A⁻¹, as (D, E, C) are.
    """

    arrow: Arrow
    mean: Leaf
    roots: Leaf
    gain: Leaf
    root: Leaf
    numbers: Leaf

    @property
    def height(self) -> Array:
        """Half the log determinant of the precision."""
        return _half_log_det(self.roots).sum(-1) + _half_log_det(self.root)

    def between(self, row: Any, first: Array, second: Array) -> Array:
        """Covariances of slots, by class; NaN between two blocks."""
        at = self.arrow.address(first, second)
        return jnp.where(at < self.arrow.size, self.numbers[row, jnp.minimum(at, self.arrow.size - 1)], jnp.nan)

    def drawn(self, noise: Array) -> Array:
        """A draw from standard normal noise, both (Q, n, slots): the border first, the blocks given that."""
        blocks, border = self.arrow.halves(noise)
        solve = jax.scipy.linalg.solve_triangular
        border = jnp.moveaxis(solve(self.root, jnp.moveaxis(border, 1, 2), lower=True, trans=1), 1, 2)
        if self.arrow.width == 1:
            blocks = blocks / self.roots[..., 0][:, None]
        else:
            blocks = solve(self.roots, jnp.moveaxis(blocks, 1, -1), lower=True, trans=1)
            blocks = jnp.moveaxis(blocks, -1, 1)
        blocks = blocks - jnp.einsum("qbsj,qnj->qnbs", self.gain, border)
        return self.mean + jnp.concatenate([jnp.reshape(blocks, (*noise.shape[:2], -1)), border], -1)


def _half_log_det(root: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)


def arrow_posterior(arrow: Arrow, numbers: Array, right: Array) -> tuple[ArrowSolution, Array]:
    """The posterior of precision A, numbers (Q, size), and A × mean = right (Q, n, slots); and log|A| (Q,)."""
    inside, across, corner = arrow.parts(numbers)
    if arrow.width == 1:
        roots, inverse = jnp.sqrt(inside), 1 / inside
    else:
        roots = jnp.linalg.cholesky(inside)
        inverse = _inverse(roots)
    gain = jnp.einsum("qbst,qbtj->qbsj", inverse, across)
    root = jnp.linalg.cholesky(corner - jnp.einsum("qbsi,qbsj->qij", across, gain))
    border = _inverse(root)
    spread = jnp.einsum("qbsi,qij->qbsj", gain, border)
    inner = inverse + jnp.einsum("qbsj,qbtj->qbst", spread, gain)
    lead = (len(numbers), -1)
    held = jnp.concatenate([jnp.reshape(a, lead) for a in (inner, -spread, border)], -1)

    def solved(vectors: Array) -> Array:
        blocks, last = arrow.halves(vectors)
        last = jnp.einsum("qij,qnj->qni", border, last - jnp.einsum("qbsj,qnbs->qnj", gain, blocks))
        blocks = jnp.einsum("qbst,qnbt->qnbs", inverse, blocks) - jnp.einsum("qbsj,qnj->qnbs", gain, last)
        return jnp.concatenate([jnp.reshape(blocks, (*vectors.shape[:2], -1)), last], -1)

    def times(vectors: Array) -> Array:
        blocks, last = arrow.halves(vectors)
        top = jnp.einsum("qbst,qnbt->qnbs", inside, blocks) + jnp.einsum("qbsj,qnj->qnbs", across, last)
        bottom = jnp.einsum("qbsj,qnbs->qnj", across, blocks) + jnp.einsum("qij,qnj->qni", corner, last)
        return jnp.concatenate([jnp.reshape(top, (*vectors.shape[:2], -1)), bottom], -1)

    mean = solved(right)
    mean = mean + solved(right - times(mean))  # the inverses in hand are only as good as A's condition
    solution = ArrowSolution(arrow, mean, roots, gain, root, held)
    return solution, 2 * solution.height


def _inverse(root: Array) -> Array:
    """A⁻¹ from A's lower Cholesky factor."""
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    half = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
    return jnp.einsum("...si,...sj->...ij", half, half)
