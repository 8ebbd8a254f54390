"""How the modules hang together: what an import costs, which module may know which, and what each one gives away."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import gapcell

ROOT = Path(gapcell.__file__).parent
FRAMEWORKS = (
    "torch", "jax", "keras", "tensorflow", "polars", "narwhals", "pandas", "pyarrow", "sklearn", "altair", "cyclopts",
    "rich", "flax", "haiku", "h5py", "pyspark",
)  # fmt: skip

# Lowest first. A module or package imports from the layers below its own only, and within a package freely.
LAYERS = (
    {"spec", "arrays", "extras", "files"},
    {"footprints", "cell", "reference", "surprises", "native"},
    {"masks"},
    {"observed"},
    {"gapcell"},  # the package itself: Spec, masks and the version
    {"torch", "jax"},
    {"keras"},
    {"weights"},  # knows every framework's layers
    {"detect"},
    {"stream"},
    {"spark"},
    {"info"},
    {"laws"},
    {"terminal", "refusal"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
# What design.md allows beside the order above: narrower than "everything below".
ONLY = {
    "footprints": {"arrays", "spec"},
    "masks": {"arrays", "footprints", "spec"},
    "cell": {"arrays", "spec"},
    "reference": {"spec"},
    "surprises": {"spec"},
    "native": {"spec"},
    "observed": {"arrays", "masks", "spec", "surprises"},
    "torch": {"arrays", "cell", "extras", "masks", "native", "observed", "spec", "surprises"},
    "jax": {"arrays", "cell", "extras", "masks", "native", "observed", "spec", "surprises"},
    "keras": {"arrays", "cell", "extras", "jax", "masks", "observed", "spec", "surprises", "torch"},
    "weights": {"arrays", "files", "jax", "keras", "spec", "torch"},
    "laws": {"extras", "files", "gapcell", "info", "jax", "keras", "reference", "spec", "torch"},
}
PUBLIC = {
    "gapcell",
    "spec",
    "masks",
    "cell",
    "reference",
    "torch",
    "torch.layers",
    "torch.nn",
    "jax",
    "jax.modules",
    "keras",
    "native",
    "weights",
    "detect",
    "spark",
    "laws",
    "stream",
}  # what users import from
VAGUE = {"utils", "util", "helpers", "helper", "base", "common", "manager", "config", "misc", "tools"}


# What a tree of modules says ------------------------------------------------------------------------------------------


def modules(root):
    """Dotted names without the package's own, "gapcell" for its __init__, and their syntax trees."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "gapcell"
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(trees):
    """(importing module, imported module) for every import within the package, also those inside functions."""
    edges = set()
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively; write the full name"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                if target.partition(".")[0] == "gapcell":
                    edges.add((name, _module_of(target, trees)))
    return edges


def _module_of(target, trees):
    """The module a dotted import reads: the longest part of it that is one."""
    parts = target.split(".")[1:]
    while parts and ".".join(parts) not in trees:
        parts.pop()
    return ".".join(parts) or "gapcell"


def upward_imports(edges):
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for importer, imported in sorted(edges):
        above, below = importer.partition(".")[0], imported.partition(".")[0]
        if above == below:
            continue
        unknown = {above, below} - set(level)
        if unknown:
            wrong.append(f"{unknown} have no place in LAYERS")
        elif level[below] >= level[above] or below not in ONLY.get(above, {below}):
            wrong.append(f"{importer} imports {imported}")
    return wrong


def circles(edges):
    graph = {}
    for importer, imported in edges:
        graph.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def vague_names(names):
    return sorted(name for name in names if VAGUE & set(name.split(".")))


def inexact_exports(name, tree):
    """What `__all__` lacks, names twice or names in vain; None where it is exact, or not there."""
    defined, assigned, imported, listed = set(), set(), set(), None
    for node in _top_level(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            assigned |= names
            if "__all__" in names:
                listed = ast.literal_eval(node.value)
    public = {each for each in defined if not each.startswith("_")}
    if listed is None:
        return f"{name} has no __all__" if name in PUBLIC else None
    available = defined | assigned | imported
    if len(set(listed)) < len(listed) or public - set(listed) or set(listed) - available:
        return f"{name}: __all__ is {sorted(listed)}, the public definitions are {sorted(public)}"
    return None


def _top_level(tree):
    """Its statements, those for type checkers too: names that `__getattr__` imports when they are asked for."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else [node]


# The package ----------------------------------------------------------------------------------------------------------

TREES = modules(ROOT)


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["gapcell", "gapcell.masks", "gapcell.reference", "gapcell.cell", "gapcell.weights", "gapcell.laws"],
)
def test_importing_it_imports_no_framework(module):
    assert not imported_by(f"import {module}") & set(FRAMEWORKS)


def test_the_import_test_sees_a_framework():
    pytest.importorskip("torch", reason="the framework to be seen is torch")
    assert "torch" in imported_by("import gapcell.torch")


def test_imports_run_downwards_only():
    assert upward_imports(imports(TREES)) == []


def test_no_module_is_part_of_a_circle():
    assert circles(imports(TREES)) == []


def test_every_module_has_a_name_that_says_something():
    assert vague_names(TREES) == []


@pytest.mark.parametrize("name", TREES)
def test_all_is_exact(name):
    assert inexact_exports(name, TREES[name]) is None


# The checks can fail --------------------------------------------------------------------------------------------------


def tree(**sources):
    return {name.replace("__", "."): ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("trees", "said"),
    [
        (tree(spec="", masks="from gapcell.spec import Spec"), []),
        (tree(spec="from gapcell import masks", masks=""), ["spec imports masks"]),
        (tree(reference="from gapcell import masks", masks=""), ["reference imports masks"]),
        (tree(torch__plan="", cell="def f():\n    import gapcell.torch.plan"), ["cell imports torch.plan"]),
        (tree(detect="", torch="from gapcell.detect import fit"), ["torch imports detect"]),
        (tree(novel="from gapcell.spec import Spec", spec=""), ["{'novel'} have no place in LAYERS"]),
    ],
)
def test_an_upward_import_is_found(trees, said):
    assert upward_imports(imports(trees)) == said


def test_a_circle_is_found():
    trees = tree(torch__a="from gapcell.torch import b", torch__b="from gapcell.torch.a import f", torch="")
    assert set(circles(imports(trees))) == {"torch.a", "torch.b"}


def test_a_vague_name_is_found():
    assert vague_names(["masks", "detect.utils", "common"]) == ["common", "detect.utils"]


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = []\ndef f(): ...",
        "__all__ = ['f', 'g']\ndef f(): ...",
        "__all__ = ['f', 'f']\ndef f(): ...",
        "__all__ = ['f']\ndef f(): ...\nclass G: ...",
    ],
)
def test_an_inexact_all_is_found(source):
    assert inexact_exports("module", ast.parse(source)) is not None


def test_a_missing_all_is_found():
    assert inexact_exports("masks", ast.parse("def f(): ...")) == "masks has no __all__"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def f(): ...",
        "def _f(): ...",
        "__all__ = ['f', 'X']\nX = 1\ndef f(): ...",
        "__all__ = ['f']\nif TYPE_CHECKING:\n    from a import f",
        "from a import b\n__all__ = ['b']",
    ],
)
def test_an_exact_all_passes(source):
    assert inexact_exports("module", ast.parse(source)) is None
