"""The repository's shape: imports run one way, heavy imports stay in their places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "napkin").rglob("*.py"))

# A module imports only from its own group and the groups above it; the longest prefix decides.
READING_ORDER = (
    "napkin.language.source",
    "napkin.language.errors",
    "napkin.operators",
    "napkin.resources",
    "napkin.diagram",
    "napkin.evaluate",
    "napkin.language",
    "napkin.algebra",
    "napkin.machine",
    "napkin.model",
    "napkin.schedule",
    "napkin.schedule.lowering",
    "napkin.schedule.roles",
    "napkin.schedule.timing",
    "napkin.schedule.tiling",
    "napkin.schedule.forms",
    "napkin.schedule.planning",
    "napkin.emit",
    "napkin.draw",
    "napkin.runtime",
    "napkin.api",
    "napkin",  # the package itself, which names its public functions
    "napkin.integrations",
    "napkin.cli",
    "napkin.__main__",
)
# Slow or untyped libraries, and the only packages that may import them.
HOMES = {
    "torch": ("napkin.runtime", "napkin.integrations", "napkin.cli.watched"),
    "transformers": ("napkin.integrations",),
    "triton": ("napkin.runtime",),
    "sympy": ("napkin.algebra", "napkin.model", "napkin.draw.report"),
    "graphviz": ("napkin.draw",),
}
# Triton's interpreter must be switched on before triton is imported. The modules under napkin.runtime that
# open with torch are themselves imported inside functions: test_api.py sees that `import napkin` stays light.
INSIDE_FUNCTIONS_ONLY = {"triton"}
OF_KERNELS = {"napkin.runtime.probes"}  # kernels of their own; imported inside functions themselves
TEXTS = {".py", ".md", ".toml", ".txt", ".napkin", ".lark", ".jinja", ".sh", ".yml", ".json", ""}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Give the module that each import statement reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                names = {f"{module}.{alias.name}" for alias in node.names}
                yield from names & MODULES or {module}
            case ast.ImportFrom():
                yield "." * node.level


def imports_at_start(tree: ast.Module) -> Iterator[str]:
    """Give what runs when the module is imported: all but the imports inside functions."""
    for node in tree.body:
        functions = {
            id(inner)
            for each in ast.walk(node)
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(each)
        }
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom) and id(inner) not in functions:
                yield from imports_of(ast.Module([inner], []))


def rank(module: str) -> int | None:
    """Return a module's place in the reading order, None if it has none."""
    if module == "napkin":
        return READING_ORDER.index("napkin")
    groups = [
        group
        for group in READING_ORDER
        if group != "napkin" and (module == group or module.startswith(f"{group}."))
    ]
    return READING_ORDER.index(max(groups, key=len)) if groups else None


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_from_above_it(path: Path) -> None:
    place = rank(module_name(path))
    assert place is not None, "add this module to READING_ORDER"
    for imported in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
        assert not imported.startswith("."), "imports are absolute"
        if imported.split(".")[0] == "napkin":
            above = rank(imported)
            assert above is not None, f"{imported} has no place in READING_ORDER"
            assert above <= place, f"{imported} lies below {module_name(path)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_libraries_stay_in_their_packages(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for imported in imports_of(tree):
        library = imported.split(".")[0]
        homes = HOMES.get(library)
        assert homes is None or within(module_name(path), homes), f"{library} belongs to {homes}"
    at_start = {imported.split(".")[0] for imported in imports_at_start(tree)}
    is_light = not at_start & INSIDE_FUNCTIONS_ONLY
    assert is_light or module_name(path) in OF_KERNELS, "import these inside functions"
    names = set(imports_at_start(tree))
    assert not names & OF_KERNELS, "import modules of kernels inside functions"


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "base", "helpers", "misc"}
    assert not [path for path in SOURCES if path.stem in drawers or path.parent.name in drawers]


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    word = "/" + "work/"
    folders = ("napkin", "grammars", "templates", "examples", "tests", "docs", "scripts", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    texts = [
        path
        for path in (*inside, *ROOT.iterdir())
        if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts
    ]
    guilty = [path for path in texts if word in path.read_text(encoding="utf-8", errors="replace")]
    assert not guilty


def test_the_checker_sees_imports_inside_functions_and_at_the_start() -> None:
    source = "import a\nif x:\n    from b import c\ndef f():\n    import d\n    from e.f import g\n"
    tree = ast.parse(source)
    assert sorted(imports_of(tree)) == ["a", "b", "d", "e.f"]
    assert sorted(imports_at_start(tree)) == ["a", "b"]
    assert rank("napkin.language.errors") == 1
    assert rank("napkin.language.parse") == READING_ORDER.index("napkin.language")
    assert rank("napkin.odds") is None
