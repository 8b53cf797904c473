"""The house rules that a program can check, read off the source with `ast`; nothing is imported.

A rule is a function from the package (all its modules) to sentences, one for each offence. The table RULES
drives the test of autoem itself; the table BITES shows, rule by rule, what is an offence and what is none.
"""

import ast
import graphlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "autoem"
MAX_LINES = 450

# From the ground up. A module imports from the layers before its own and from its own package, never upward.
# A new file or folder gets its place here.
LAYERS = (
    "_types",
    "_options",
    "_result",
    "_links",
    "_family",
    "_supports",
    "_wrappers",
    "_as_gaussians",
    "_densities",
    "_augment",
    "_sites",
    "_normalised",
    "_reads",
    "_numbers",
    "_roles",
    "_lenient",
    "_scans",
    "_unsummed",
    "_pieces",
    "_model",
    "_evidence",
    "_complete",
    "_update",
    "_rows",
    "_cells",
    "_design",
    "_copies",
    "_conjugacy",
    "_factors",
    "_levels",
    "_borders",
    "_steps",
    "_laid",
    "_gaussian",
    "_conjugate",
    "_scaled",
    "_chains",
    "_discrete",
    "_distinct",
    "_points",
    "_point_cells",
    "_shared",
    "_engines",
    "_blocks",
    "_places",
    "_separation",
    "_locations",
    "_counts",
    "_recognise",
    "_render",
    "_found",
    "_derivation",
    "_boundary",
    "_squarem",
    "_loop",
    "_refine",
    "_starts",
    "_saddles",
    "_draws",
    "_gaussian_posterior",
    "_conjugate_posterior",
    "_scaled_posterior",
    "_points_posterior",
    "_posterior",
    "_uncertainty",
    "_params",
    "_louis",
    "_ascent",
    "_em",
    "__init__",
)

# Names, with all that is under them, that only some layers may use: those layers.
KNOWN_TO = {
    "jax.make_jaxpr": "_links",
    "jax.extend": "_links",
    "jax.interpreters": "_links",
    "jax._src": "_links",
    "equinox.filter_make_jaxpr": "_links",
    "numpyro.handlers": "_model and _scans",
    "numpyro.primitives": "_model and _scans and _lenient",
}

# ---- reading the package -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted: `autoem._links.walk`; `__init__.py` bears its package's name."""

    name: str
    path: str
    source: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Where its relative imports start."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]

    @property
    def layer(self) -> str:
        return layer_of(self.name)

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


Package = Mapping[str, Module]


def layer_of(name: str) -> str:
    """`autoem._links.walk` is in `_links`, `autoem` itself is `__init__`."""
    return [*name.split("."), "__init__"][1]


def parse(files: Mapping[str, str]) -> Package:
    """Modules by dotted name, from sources by path relative to the root."""
    package = {}
    for path, source in files.items():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        package[name] = Module(name, path, source, ast.parse(source, path))
    return package


def read_package() -> Package:
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    return parse({path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths})


def imports(module: Module) -> Iterator[tuple[int, str, str]]:
    """Every import, wherever it stands: (line, full dotted name, the name that it binds)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.asname or alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            origin = [node.module] if node.module else []
            if node.level:
                above = module.package.split(".")
                origin = above[: len(above) - node.level + 1] + origin
            for alias in node.names:
                yield node.lineno, ".".join([*origin, alias.name]), alias.asname or alias.name


def imported_modules(module: Module, package: Package) -> Iterator[tuple[int, str]]:
    """The imports from autoem: (line, module).

    `from ._links import walk` means the module `_links.walk` if it exists, else `_links`, which defines it.
    """
    for line, name, _ in imports(module):
        if name == PACKAGE or name in package:
            yield line, name
        elif name.startswith(f"{PACKAGE}."):
            yield line, name.rpartition(".")[0]


def uses(module: Module) -> Iterator[tuple[int, str]]:
    """Full dotted names of all imports and of the attributes of what they bind: (line, name).

    After `import jax as j`, the expression `j.make_jaxpr` uses `jax.make_jaxpr`.
    """
    bound = {}
    for line, name, alias in imports(module):
        yield line, name
        bound[alias] = alias if name.startswith(f"{alias}.") else name
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in bound:
                yield node.lineno, f"{bound[first]}.{rest}"


Function = ast.FunctionDef | ast.AsyncFunctionDef
Owner = ast.ClassDef | None


def public(body: list[ast.stmt], owner: Owner = None) -> Iterator[tuple[Function | ast.ClassDef, Owner]]:
    """Public definitions of a module and of its public classes, each with the class that it stands in."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, owner
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, node)


def last_name(node: ast.expr) -> str:
    """Of a decorator or a base class: `eqx.Module[T]` is `Module`."""
    match node:
        case ast.Subscript(value=inner) | ast.Call(func=inner):
            return last_name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


# ---- the rules ---------------------------------------------------------------------------------------------


def imports_go_downward(package: Package) -> Iterator[str]:
    for module in package.values():
        here = module.layer
        if here not in LAYERS:
            yield f"{module.at(1)}: `{here}` has no place in LAYERS of tests/test_house.py"
            continue
        below = LAYERS[: LAYERS.index(here)]
        for line, name in imported_modules(module, package):
            if layer_of(name) not in (*below, here):
                allowed = ", ".join(below) or "no layer"
                yield f"{module.at(line)}: imports {name}; {here} may import from {allowed}"


def imports_have_no_cycle(package: Package) -> Iterator[str]:
    lines = {
        (importer.name, imported): line
        for importer in package.values()
        for line, imported in imported_modules(importer, package)
        if imported in package
    }
    order = graphlib.TopologicalSorter(dict.fromkeys(package, ()))
    for importer, imported in lines:
        order.add(importer, imported)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1][::-1]
        line = lines[cycle[0], cycle[1]]
        yield f"{package[cycle[0]].at(line)}: imports in a circle: {' -> '.join(cycle)}"


def no_super(package: Package) -> Iterator[str]:
    for module in package.values():
        for node in ast.walk(module.tree):
            match node:
                case ast.Call(func=ast.Name(id="super"), lineno=line):
                    yield f"{module.at(line)}: calls super(); classes are abstract or final"


def private_knowledge(package: Package) -> Iterator[str]:
    for module in package.values():
        used = list(uses(module))
        known = {(line, name) for name in KNOWN_TO for line, use in used if f"{use}.".startswith(f"{name}.")}
        for line, name in sorted(known):
            if module.layer not in KNOWN_TO[name].split(" and "):
                yield f"{module.at(line)}: uses {name}, which only {KNOWN_TO[name]} may"


def short_files(package: Package) -> Iterator[str]:
    for module in package.values():
        lines = len(module.source.splitlines())
        if lines > MAX_LINES:
            yield f"{module.at(lines)}: {lines} lines, more than {MAX_LINES}"


def public_docstrings(package: Package) -> Iterator[str]:
    """A method may inherit the docstring of the method that it implements, as it does for `help`."""
    nodes = [node for module in package.values() for node in ast.walk(module.tree)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def documents(owner: ast.ClassDef, method: str) -> bool:
        own = (node for node in owner.body if isinstance(node, Function) and node.name == method)
        return any(map(ast.get_docstring, own)) or inherits(owner, method)

    def inherits(owner: ast.ClassDef, method: str) -> bool:
        bases = (classes.get(last_name(base)) for base in owner.bases)
        return any(documents(base, method) for base in bases if base not in (None, owner))

    for module in package.values():
        for node, owner in public(module.tree.body):
            inherited = isinstance(node, Function) and owner is not None and inherits(owner, node.name)
            overload = "overload" in map(last_name, node.decorator_list)
            if not (ast.get_docstring(node) or inherited or overload):
                yield f"{module.at(node.lineno)}: {node.name} has no docstring"


def public_annotations(package: Package) -> Iterator[str]:
    for module in package.values():
        for node, owner in public(module.tree.body):
            if not isinstance(node, Function):
                continue
            positional = [*node.args.posonlyargs, *node.args.args]
            if owner is not None and "staticmethod" not in map(last_name, node.decorator_list):
                positional = positional[1:]
            starred = filter(None, (node.args.vararg, node.args.kwarg))
            args = (*positional, *node.args.kwonlyargs, *starred)
            missing = [arg.arg for arg in args if arg.annotation is None]
            missing += ["the value returned"] if node.returns is None else []
            if missing:
                yield f"{module.at(node.lineno)}: {node.name} lacks the type of {', '.join(missing)}"


Rule = Callable[[Package], Iterator[str]]
RULES: tuple[Rule, ...] = (
    imports_go_downward,
    imports_have_no_cycle,
    no_super,
    private_knowledge,
    short_files,
    public_docstrings,
    public_annotations,
)


@pytest.mark.parametrize("rule", RULES)
def test_house_rule(rule: Rule) -> None:
    package = read_package()
    assert PACKAGE in package
    offences = list(rule(package))
    assert not offences, "\n" + "\n".join(offences)


# ---- the rules themselves ----------------------------------------------------------------------------------

BASE = 'class Base:\n    """Base."""\n    def f(self) -> int:\n        """F."""\n'
CHILD = BASE + 'class Child(x.Base):\n    """Child."""\n'

# A rule, the sources that it is shown, and where it should report an offence.
BITES = [
    (imports_go_downward, {"_em.py": "from ._links import f\nfrom . import _types", "_types.py": ""}, []),
    (imports_go_downward, {"_types.py": "x = 1\nfrom ._em import EM"}, ["_types.py:2"]),
    (imports_go_downward, {"_links/a.py": "def f():\n    from .._family import g"}, ["_links/a.py:2"]),
    (imports_go_downward, {"_links/a.py": "from .. import _em", "_em.py": ""}, ["_links/a.py:1"]),
    (imports_go_downward, {"_em.py": "import autoem"}, ["_em.py:1"]),
    (imports_go_downward, {"_em.py": "from . import EM"}, ["_em.py:1"]),
    (imports_go_downward, {"_new.py": ""}, ["_new.py:1"]),
    (imports_have_no_cycle, {"_links/a.py": "from .b import B", "_links/b.py": "from .c import C"}, []),
    (imports_have_no_cycle, {"_em/a.py": "from .b import B", "_em/b.py": "from . import a"}, ["_em/a.py:1"]),
    (imports_have_no_cycle, {"_em/__init__.py": "from .a import A\nfrom . import A"}, ["_em/__init__.py:2"]),
    (no_super, {"_em.py": "class A:\n    def f(self):\n        super().f()"}, ["_em.py:3"]),
    (private_knowledge, {"_links/a.py": "from jax.extend import core"}, []),
    (private_knowledge, {"_em.py": "import jax.extend.core as c"}, ["_em.py:1"]),
    (private_knowledge, {"_em.py": "from jax import make_jaxpr as m"}, ["_em.py:1"]),
    (private_knowledge, {"_em.py": "import jax as j\nj.make_jaxpr(f)"}, ["_em.py:2"]),
    (private_knowledge, {"_em.py": "import jax\nimport jax.numpy\njax._src.core"}, ["_em.py:3"]),
    (private_knowledge, {"_em.py": "import numpyro\nnumpyro.sample\nnumpyro.handlers.seed"}, ["_em.py:3"]),
    (private_knowledge, {"_model.py": "from numpyro import handlers"}, []),
    (short_files, {"_em.py": "\n" * MAX_LINES}, []),
    (short_files, {"_em.py": "\n" * (MAX_LINES + 1)}, [f"_em.py:{MAX_LINES + 1}"]),
    (public_docstrings, {"_em.py": "def f(): ...\nclass A:\n    x = 1"}, ["_em.py:1", "_em.py:2"]),
    (public_docstrings, {"_em.py": "def _f(): ...\nclass _A:\n    def g(self): ..."}, []),
    (public_docstrings, {"_em.py": CHILD + "    def f(self): ..."}, []),
    (public_docstrings, {"_em.py": CHILD + "    def g(self): ..."}, ["_em.py:7"]),
    (public_annotations, {"_em.py": BASE}, []),
    (public_annotations, {"_em.py": "def f(*args, a: int) -> int: ..."}, ["_em.py:1"]),
    (public_annotations, {"_em.py": "def f(a: int): ..."}, ["_em.py:1"]),
    (public_annotations, {"_em.py": "def f() -> int:\n    def g(x): ..."}, []),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "files", "where"), BITES)
def test_rule_bites(rule: Rule, files: dict[str, str], where: list[str]) -> None:
    package = parse({f"{PACKAGE}/{path}": source for path, source in files.items()})
    found = [offence.split(": ")[0] for offence in rule(package)]
    assert found == [f"{PACKAGE}/{place}" for place in where]
