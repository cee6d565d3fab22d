"""The command ``python -m tests.structure [LANDSCAPE]``: counts of the source's layout.

A *part* is a package or a module directly in ``landscape/``. Imports for types alone and imports inside functions
count, because a reader of the module has to know the imported names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from cyclopts import App

ROOT = Path(__file__).parents[1]
app = App(help="Print how the source is laid out, in counts.", version_flags=[])
Node = TypeVar("Node", bound=Hashable)


class Import(NamedTuple):
    """One import: the full name of the imported object, and whether only types need the import."""

    name: str
    for_types: bool


class Function(NamedTuple):
    """A function, and its number of lines without the docstring."""

    place: str
    lines: int


def imports(path: Path) -> list[Import]:
    """Every import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found += [Import(f"{node.module}.{alias.name}", node in for_types) for alias in node.names]
    return found


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            told = node.body[0] if ast.get_docstring(node) is not None else None
            documented = told.end_lineno - told.lineno + 1 if told is not None and told.end_lineno is not None else 0
            yield Function(f"{path.stem}.{node.name}", node.end_lineno - first + 1 - documented)


def circles(graph: Mapping[Node, set[Node]]) -> list[set[Node]]:
    """The strongly connected components of more than one node (Tarjan 1972), in order from the bottom."""
    number: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    stack: list[Node] = []
    found: list[set[Node]] = []

    def visit(node: Node) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            component = {stack.pop()}
            while node not in component:
                component.add(stack.pop())
            found.append(component)

    for node in graph:
        if node not in number:
            visit(node)
    return [component for component in found if len(component) > 1]


@dataclass(frozen=True)
class Source:
    """The modules of a package, and their imports of each other.

    Attributes:
        folder: folder of the package.
        files: file of each module, by the module's full name.
        modules: modules of the package that each module imports, by the module's full name.
    """

    folder: Path
    files: dict[str, Path]
    modules: dict[str, set[str]]

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Read the package in a folder."""
        parts = {path: path.relative_to(folder.parent).with_suffix("").parts for path in sorted(folder.rglob("*.py"))}
        files = {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}
        modules = {
            name: {
                own if (own := found.name) in files else own.rpartition(".")[0]
                for found in imports(path)
                if found.name.partition(".")[0] == folder.name
            }
            & files.keys() - {name}
            for name, path in files.items()
        }
        return cls(folder, files, modules)

    def loose(self) -> list[str]:
        """The modules directly in the folder, without the package's own ``__init__``."""
        return [name for name, path in self.files.items() if path.parent == self.folder and path.stem != "__init__"]

    def parts(self) -> dict[str, set[str]]:
        """The other parts that each part imports; the package's ``__init__`` and ``__main__`` are no parts."""
        graph: dict[str, set[str]] = {}
        for name, others in self.modules.items():
            if (here := self.part(name)) is not None:
                graph.setdefault(here, set()).update({self.part(other) for other in others} - {here, None})
        return graph

    def part(self, module: str) -> str | None:
        """The part that a module belongs to, or None."""
        names = module.split(".")
        return None if len(names) == 1 or names[1] == "__main__" else names[1]

    def depth(self) -> int:
        """The length of the longest chain of parts that import one another; the parts of a circle count as one."""
        graph = self.parts()
        one = {part: {part} for part in graph} | {part: circle for circle in circles(graph) for part in circle}

        def below(part: str) -> int:
            others = {other for each in one[part] for other in graph[each]} - one[part]
            return 1 + max(map(below, others), default=0)

        return max(map(below, graph))


def counts(source: Source) -> dict[str, str]:
    """All counts, by name."""
    parts = source.parts()
    at_start = circles(source.modules)
    lengths = sorted(((len(path.read_text().splitlines()), name) for name, path in source.files.items()), reverse=True)
    longest = sorted((each for path in source.files.values() for each in functions(path)), key=lambda each: -each.lines)
    return {
        "modules at the root": str(len(source.loose())),
        "parts": str(len(parts)),
        "layers": str(source.depth()),
        "imports from part to part": str(sum(map(len, parts.values()))),
        "circles of parts": "; ".join(", ".join(sorted(circle)) for circle in circles(parts)) or "none",
        "circles of modules": "; ".join(", ".join(sorted(circle)) for circle in at_start) or "none",
        "modules above 400 lines": str(sum(length > 400 for length, _ in lengths)),
        "longest modules": ", ".join(f"{name} {length}" for length, name in lengths[:3]),
        "functions above 60 lines without docstring": str(sum(each.lines > 60 for each in longest)),
        "longest functions without docstring": ", ".join(f"{each.place} {each.lines}" for each in longest[:3]),
    }


@app.default
def main(folder: Path = ROOT / "landscape", /) -> int:
    """Print the counts of a package.

    Args:
        folder: Folder of the package.
    """
    for name, value in counts(Source.read(folder)).items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(app())
