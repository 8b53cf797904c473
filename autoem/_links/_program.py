"""A traced function as a flat program: calls inlined, dead code gone, everything that is data only computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from ._registers import Origins, apart, origin, reached, registers, step_apart, together
from ._scan import SHORT, Body, Unrolled, written_out

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat": "jaxpr",
          "checkpoint": "jaxpr", "remat2": "jaxpr", "custom_lin": "jaxpr"}  # fmt: skip
_CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}


@dataclass(frozen=True)
class Node:
    """One operation: `inputs` and `outputs` are value numbers. `body` is the program of a custom-derivative call.

    `seam` marks the concatenation of a scan's steps: the first `seam` of them, one by one, and all others.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    body: Program | None = None
    seam: int = 0

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name


@dataclass(frozen=True, eq=False)
class Program:
    """A straight-line program over numbered values. Programs of the same structure are equal, whatever their data.

    Attributes:
        nodes: operations that depend on an input, in order.
        inputs: value numbers of the inputs.
        outputs: value numbers of the outputs.
        avals: shape and dtype of every value.
        known: arrays that do not depend on the inputs, by value number (data; not part of the structure).
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    avals: dict[int, jax.ShapeDtypeStruct]
    known: dict[int, Any]

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.avals[value].shape

    @cached_property
    def fingerprint(self) -> tuple[Any, ...]:
        """All that makes two programs compile alike."""
        nodes = tuple((n.name, n.inputs, n.outputs, _frozen(n)) for n in self.nodes)
        avals = tuple(sorted((i, a.shape, str(a.dtype)) for i, a in self.avals.items()))
        return nodes, self.inputs, self.outputs, avals, tuple(sorted(self.known))

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self.fingerprint == other.fingerprint)

    def __call__(self, inputs: Sequence[Any], known: dict[int, Any] | None = None) -> list[Any]:
        """Evaluate at `inputs`; `known` replaces the program's own data."""
        values = dict(self.known if known is None else known)
        values.update(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            values.update(zip(node.outputs, bind(node, [values[i] for i in node.inputs]), strict=True))
        return [values[i] for i in self.outputs]


def seams(program: Program) -> dict[int, int]:
    """Per value that comes from a scan's unequal steps: how many of the first are told apart (the most, if several)."""
    found: dict[int, int] = {}
    for node in program.nodes:
        seam = max(node.seam, *(found.get(i, 0) for i in node.inputs), 0)
        if seam:
            found.update(dict.fromkeys(node.outputs, seam))
    return found


def bind(node: Node, operands: Sequence[Any]) -> list[Any]:
    """Apply a node's primitive, derivative rules included."""
    parameters = node.primitive.get_bind_params(node.params)
    subfuns, params = parameters if isinstance(parameters, tuple) else ((), parameters)  # JAX < 0.9 gives both
    out = node.primitive.bind(*subfuns, *operands, **params)
    return list(out) if node.primitive.multiple_results else [out]


def _frozen(node: Node) -> Any:
    """A node's parameters as something hashable; nested programs with their constants."""
    if node.body is not None:
        return node.body.fingerprint, _contents(node.body)
    frozen = []
    for key, value in sorted(node.params.items()):
        parts = value if isinstance(value, tuple | list) else [value]
        jaxprs = [p for p in parts if isinstance(p, ClosedJaxpr | Jaxpr)]
        if jaxprs:
            closed = [p if isinstance(p, ClosedJaxpr) else ClosedJaxpr(p, ()) for p in jaxprs]
            programs = [flatten(c) for c in closed]
            frozen.append((key, tuple((p.fingerprint, _contents(p)) for p in programs)))
        elif not callable(value):
            frozen.append((key, str(value)))
    return tuple(frozen)


def _contents(program: Program) -> Any:
    return tuple((i, np.asarray(v).tobytes()) for i, v in sorted(program.known.items()))


def is_concrete(*arrays: Any) -> bool:
    """Whether all values are numbers rather than tracers."""
    return not any(isinstance(a, Tracer) for a in arrays)


def has_traced_index(program: Program) -> bool:
    """Whether elements of an unknown are picked by an index that is a tracer: which of them meet is not known then."""
    return any(
        not is_concrete(program.known.get(i))
        for node in program.nodes
        if node.name.startswith(("gather", "dynamic", "scatter"))
        for i in node.inputs[1:]
    )


class _Flattener:
    """Numbers the values of nested jaxprs into one list of nodes."""

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.nodes: list[Node] = []
        self.avals: dict[int, jax.ShapeDtypeStruct] = {}
        self.known: dict[int, Any] = {}

    def new(self, aval: Any) -> int:
        number = len(self.avals)
        self.avals[number] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return number

    def constant(self, value: Any, aval: Any) -> int:
        number = self.new(aval)
        self.known[number] = value
        return number

    @staticmethod
    def dtype(aval: Any) -> Any:
        return aval.dtype

    def walk(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[int], unroll: bool = True) -> list[int]:
        environment = dict(zip(jaxpr.invars, arguments, strict=True))
        environment.update({v: self.constant(c, v.aval) for v, c in zip(jaxpr.constvars, consts, strict=True)})

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self.constant(np.asarray(atom.val, self.dtype(atom.aval)), atom.aval)
            return environment[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in _CALLS and _CALLS[name] in eqn.params:
                inner = eqn.params[_CALLS[name]]
                closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
                results = self.walk(closed.jaxpr, closed.consts, operands, unroll)
            elif name == "scan" and unroll and not eqn.params["reverse"] and eqn.params["length"]:
                results = self.unrolled(eqn.params, operands)
            else:
                body = flatten(eqn.params[_CUSTOM[name]]) if name in _CUSTOM else None
                results = [self.new(v.aval) for v in eqn.outvars]
                self.nodes.append(Node(eqn.primitive, eqn.params, tuple(operands), tuple(results), body))
            environment.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def emit(self, function: Callable[..., Any], operands: Sequence[int]) -> list[int]:
        """Add the operations of a function; scans among them are left alone."""
        closed = jax.make_jaxpr(function)(*[self.avals[i] for i in operands])
        return self.walk(closed.jaxpr, closed.consts, operands, unroll=False)

    def join(self, pieces: Sequence[int], seam: int) -> int:
        """Concatenate along the first axis."""
        if len(pieces) == 1:
            return pieces[0]
        before = len(self.nodes)
        (result,) = self.emit(lambda *xs: jax.lax.concatenate(xs, 0), pieces)
        assert len(self.nodes) == before + 1
        self.nodes[-1] = replace(self.nodes[-1], seam=seam)
        return result

    def live(self) -> set[int]:
        """Values that depend on an input."""
        found = set(self.inputs)
        for node in self.nodes:
            if found.intersection(node.inputs):
                found.update(node.outputs)
        return found

    def unrolled(self, params: dict[str, Any], operands: Sequence[int]) -> list[int]:
        """The results of a scan."""
        closed, consts, states, length = (params[n] for n in ("jaxpr", "num_consts", "num_carry", "length"))
        step = flatten(closed)
        entering = step.inputs[consts : consts + states]
        live = self.live()
        # Lags of data are data, and may recur.
        split = {j: axis for j, axis in registers(step, entering, bind).items()
                 if any(operands[i] in live for i in origin(step, j, consts, states, restricted))}  # fmt: skip
        if not split:
            return self._unrolled(step, consts, states, length, operands, None)
        widths = [(split[j], step.shape(i)[split[j]]) if j in split else (0, 0) for j, i in enumerate(entering)]
        initial = apart(operands[consts : consts + states], widths, self.emit)
        operands = [*operands[:consts], *initial, *operands[consts + states :]]
        avals = [self.avals[i] for i in operands[: consts + len(initial)]] + list(closed.in_avals[consts + states :])
        step = flatten(jax.make_jaxpr(step_apart(jaxpr_as_fun(closed), consts, widths))(*avals))
        origins = Origins(step, step.inputs[consts : consts + len(initial)], {}, bind)
        results = self._unrolled(step, consts, len(initial), length, operands, origins)
        return [*together(results[: len(initial)], widths, self.emit), *results[len(initial) :]]

    def _unrolled(
        self, step: Program, consts: int, states: int, length: int, operands: Sequence[int], origins: Origins | None
    ) -> list[int]:
        """The results of a scan of this step; `origins` follows its dependences more closely than from node to node."""
        entering = step.inputs[consts : consts + states]
        if origins is None:
            reach = reached(step, entering)
        else:
            reach = {i: frozenset(j for j, _ in origins.of(i)[0]) for i in step.outputs}
        kept = frozenset(j for j in range(states) if step.outputs[j] == entering[j])

        def call(wanted: Sequence[int], given: Sequence[Any]) -> list[Any]:
            return restricted(step, [step.outputs[i] for i in wanted])(given)

        def uses(wanted: Sequence[int]) -> frozenset[int]:
            met = restricted(step, [step.outputs[i] for i in wanted])
            needed = {i for n in met.nodes for i in n.inputs} | set(met.outputs)
            return frozenset(position for position, i in enumerate(step.inputs) if i in needed)

        body = Body(call, uses, consts, states, length, [reach.get(i, frozenset()) for i in step.outputs], kept)
        unrolled = Unrolled(body, self.emit, operands, self.join)
        live = self.live() if length <= SHORT else set()
        unknown = [j for j in unrolled.recurrent if live.intersection(operands[i] for i in uses([j]))]
        if unknown and all(np.issubdtype(self.dtype(step.avals[entering[j]]), np.floating) for j in unknown):
            return self.emit(written_out(step, consts, states, length), operands)
        return unrolled.results()


def flatten(closed: ClosedJaxpr, unroll: bool = True) -> Program:
    """A jaxpr as a program."""
    flattener = _Flattener()
    inputs = flattener.inputs = [flattener.new(v.aval) for v in closed.jaxpr.invars]
    outputs = flattener.walk(closed.jaxpr, closed.consts, inputs, unroll)
    return Program(tuple(flattener.nodes), tuple(inputs), tuple(outputs), flattener.avals, flattener.known)


def without_dead_code(program: Program) -> Program:
    """A program less what no output needs."""
    needed, nodes = set(program.outputs), []
    for node in reversed(program.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    known = {i: v for i, v in program.known.items() if i in needed}
    return Program(tuple(reversed(nodes)), program.inputs, program.outputs, program.avals, known)


def restricted(program: Program, outputs: Sequence[int]) -> Program:
    """The part of a program that certain values need."""
    return without_dead_code(Program(program.nodes, program.inputs, tuple(outputs), program.avals, program.known))


LARGE = 2**16
"""Elements from which on what merely repeats is not written out."""


def _repeats(node: Node, program: Program) -> bool:
    """Whether a node repeats small data so often that they had better not be written out."""
    size = math.prod(program.shape(node.outputs[0]))
    return node.name == "broadcast_in_dim" and size >= max(LARGE, 8 * math.prod(program.shape(node.inputs[0])))


def _view(node: Node, operand: Any) -> np.ndarray:
    """The result of such a node as a view: no memory."""
    shape = node.params["shape"]
    lengths = dict(zip(node.params["broadcast_dimensions"], np.shape(operand), strict=True))
    return np.broadcast_to(np.reshape(operand, [lengths.get(a, 1) for a in range(len(shape))]), shape)


def with_data_computed(program: Program) -> Program:
    """Run every node that no input reaches: eagerly where its operands are numbers, else within the current trace."""
    known = dict(program.known)
    concrete = {i for i, v in known.items() if is_concrete(v)}
    reached = set(program.inputs)
    early, traced, late = [], [], []
    for node in program.nodes:
        if reached.intersection(node.inputs):
            late.append(node)
            reached.update(node.outputs)
        elif concrete.issuperset(node.inputs):
            early.append(node)
            concrete.update(node.outputs)
        else:
            traced.append(node)
    wanted = {i for node in (*traced, *late) for i in node.inputs} | set(program.outputs)
    views = [n for n in early if n.outputs[0] in wanted and _repeats(n, program)]
    wanted = (wanted | {n.inputs[0] for n in views}) - {n.outputs[0] for n in views}

    for part, eager in ((early, True), (traced, False)):
        made = tuple(i for node in part for i in node.outputs if i in wanted)
        needed = {i for node in part for i in node.inputs}
        if made:
            step = Program(tuple(part), (), made, program.avals, {i: v for i, v in known.items() if i in needed})
            known.update(zip(made, _values(step) if eager else step(()), strict=True))
        for node in views if eager else ():
            known[node.outputs[0]] = _view(node, known[node.inputs[0]])
    return without_dead_code(Program(tuple(late), program.inputs, program.outputs, program.avals, known))


def _values(program: Program, inputs: Sequence[Any] = (), once: bool = False) -> list[Any]:
    """Evaluate a program of numbers, compiled once for all of its structure."""
    with jax.ensure_compile_time_eval():
        evaluate = _evaluate_once if once and jax.default_backend() == "cpu" else _evaluate
        return evaluate(program, program.known, tuple(inputs)) if program.nodes else program(inputs)


def _called(program: Program, known: dict[int, Any], inputs: tuple[Any, ...]) -> list[Any]:
    return program(inputs, known)


_evaluate = jax.jit(_called, static_argnums=0)
# For what runs a few times the compiler had better hurry: this halves its time.
_evaluate_once = jax.jit(_called, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


def evaluator(function: Callable[..., Any], argument: Any, once: bool = False) -> Callable[[Any], Any]:
    """What `jax.jit(function)` is, less the work that no result needs; functions that do the same are compiled once.

    Args:
        function: of one array, to a tree of arrays; it is traced here.
        argument: an example of that array.
        once: whether it will run but a few times, so that compiling it is what takes the time.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(argument)
    program, tree = without_dead_code(flatten(closed, unroll=False)), jax.tree.structure(shape)
    numbers = is_concrete(*jax.tree.leaves(argument), *program.known.values())
    return lambda value: jax.tree.unflatten(tree, _values(program, (value,), once) if numbers else program((value,)))
