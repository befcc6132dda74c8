"""What code a result depends on: the definitions that can be reached from it, but not their comments and messages.

Nothing is run or imported. From a root such as `ecg.trainer:Trainer` the names that its source uses are followed to the
functions, classes and constants of this project that they mean, and so on. A change in a definition that is not reached
cannot change the result, so saving a file does not make a training stale. Names that are put together at run time
(`getattr` with a computed string) are not seen; networks, which are chosen by name, are roots of their own.
"""

import ast
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ecg.artifacts import ROOT, UserError

CODES = ROOT / "codes"
MESSAGES = ("UserError", "print", "say")  # what is called with a text for the terminal, by the last part of its name


@dataclass(frozen=True)
class Definition:
    """A piece of source: a digest of what it does, and the names it uses, such as ("plots", "results", "draw").

    `imports` {local name: what it means} are those inside of it. A meaning is "package.module", or with a name
    "package.module:name".
    """

    digest: str
    uses: tuple[tuple[str, ...], ...]
    imports: dict[str, str]


@dataclass
class Module:
    """A source file: the statements that define each name, what its imports mean, and what else runs at its import."""

    name: str  # with dots; that of a script is empty
    package: str
    statements: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    body: list[ast.stmt] = field(default_factory=list)
    definitions: dict[str, Definition] = field(default_factory=dict)  # of what was asked for so far

    def definition(self, name: str) -> Definition:
        """Return one definition by name; with an empty name, what else runs."""
        if name not in self.definitions:
            self.definitions[name] = _definition(self.statements[name] if name else self.body, self.package)
        return self.definitions[name]


def reachable(
    roots: Iterable[str], *, without: Collection[str] = (), codes: Path = CODES, script: tuple[Path, str] | None = None
) -> dict[str, str]:
    """Return {"module:name": digest} of every definition that the roots use, themselves included.

    `roots` are "module:name", or "module" for all of it. `script` is (path, source) of a file outside the package, all
    of which counts; its key is "NAME.py:". Key "module:" is what runs when that module is imported, besides its
    definitions. What `without` lists, packages, modules or definitions, is not followed.
    """
    search = _Search(codes, frozenset(without))
    if script:
        search.add_script(*script)
    for root in roots:
        module, _, name = root.partition(":")
        search.want(module, name)
    return search.found


def digest(parts: dict[str, str]) -> str:
    """Return one digest of what `reachable` found; raise a `ValueError` if that is nothing."""
    if not parts:
        raise ValueError("no code to take a digest of")
    return hashlib.sha256("\n".join(f"{key} {value}" for key, value in sorted(parts.items())).encode()).hexdigest()[:16]


def parse(source: str, path: Path) -> ast.Module:
    """Return the syntax tree; raise a `UserError` that names file and line if there is none."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}: correct it and rerun the same command") from None


class _Search:
    """A walk from definition to definition; `found` has the digests of those that were reached."""

    def __init__(self, codes: Path, without: frozenset[str]):
        self.codes, self.without = codes, without
        self.found: dict[str, str] = {}
        self._files: dict[str, Path | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._entered: set[str] = set()
        self._pending: list[tuple[Module, str]] = []

    def add_script(self, path: Path, source: str) -> None:
        module = _read(path, source, "")
        parts = [module.definition(name) for name in [*module.statements, ""]]
        self.found[f"{path.name}:"] = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()[:16]
        self._enter_imports(module)
        for part in parts:
            self._follow(module, part)
        self._drain()

    def want(self, module_name: str, name: str) -> None:
        """Reach a definition of a module, or with an empty name all of them."""
        self._reach(module_name, name)
        self._drain()

    def _drain(self) -> None:
        while self._pending:
            module, name = self._pending.pop()
            if f"{module.name}:{name}" not in self.found:
                definition = module.definition(name)
                self.found[f"{module.name}:{name}"] = definition.digest
                self._follow(module, definition)

    def _reach(self, module_name: str, name: str) -> None:
        module = self._module(module_name)
        if module is None or f"{module_name}:{name}" in self.without:
            return
        self._enter(module)
        if name in module.statements:
            self._pending.append((module, name))
        elif name in module.imports:  # passed on by a package's __init__
            self._reach(*self._resolve(module.imports[name], ()))
        elif name in ("", "*"):
            for each in module.statements:
                self._reach(module_name, each)

    def _enter(self, module: Module) -> None:
        """Count what runs when a module is imported, and when those are that it imports."""
        if module.name in self._entered:
            return
        self._entered.add(module.name)
        if module.body:
            self._pending.append((module, ""))
        self._enter_imports(module)

    def _enter_imports(self, module: Module) -> None:
        for meaning in module.imports.values():
            imported = self._module(self._resolve(meaning, ())[0])
            if imported:
                self._enter(imported)

    def _follow(self, module: Module, definition: Definition) -> None:
        for first, *rest in definition.uses:
            if first in module.statements and module.name:  # all of a script counts anyway
                self._reach(module.name, first)
            for imports in (module.imports, definition.imports):
                if first in imports:
                    self._reach(*self._resolve(imports[first], rest))

    def _resolve(self, meaning: str, rest: Iterable[str]) -> tuple[str, str]:
        """Return (module, name) of a chain such as `plots.results.draw`; an empty name is all of the module.

        `meaning` is that of its first part, `rest` the others.
        """
        module, _, name = meaning.partition(":")
        path = [name, *rest] if name else list(rest)
        while path and self._file(f"{module}.{path[0]}"):
            module = f"{module}.{path.pop(0)}"
        return module, path[0] if path else ""

    def _file(self, name: str) -> Path | None:
        if name not in self._files:
            self._files[name] = _file_of(name, self.codes)
        return self._files[name]

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            above = name.split(".")
            left_out = any(".".join(above[: i + 1]) in self.without for i in range(len(above)))
            file = None if left_out else self._file(name)
            self._modules[name] = _read(file, file.read_text(encoding="utf-8"), name) if file else None
        return self._modules[name]


def _file_of(name: str, codes: Path) -> Path | None:
    path = codes.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _read(path: Path, source: str, name: str) -> Module:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    module = Module(name, package)
    for node in parse(source, path).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports.update(_meanings(node, package))
            continue
        names = _defined(node)
        for each in names:
            module.statements.setdefault(each, []).append(node)
        if not names:
            module.body.append(node)
            module.imports.update(_imports(ast.walk(node), package))
    return module


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines; none if it does something else or more."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = list(node.targets) if isinstance(node, ast.Assign) else [node.target]
    names = []
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        elif isinstance(target, ast.Name):
            names.append(target.id)
        else:  # of an object or a table that is there already
            return []
    return names


def _definition(nodes: list[ast.stmt], package: str) -> Definition:
    parts = [part for node in nodes for part in ast.walk(node)]
    uses, imports = _uses(parts), _imports(parts, package)
    # after the names: an annotation changes nothing, but names a class whose methods are called
    text = "\n".join(_text(_Strip().visit(node)) for node in nodes)
    return Definition(hashlib.sha256(text.encode()).hexdigest()[:16], uses, imports)


def _imports(parts: Iterable[ast.AST], package: str) -> dict[str, str]:
    imports: dict[str, str] = {}
    for part in parts:
        if isinstance(part, ast.Import | ast.ImportFrom):
            imports.update(_meanings(part, package))
    return imports


def _meanings(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, str]:
    """Return {local name: "module" or "module:name"} of an import in a module of `package`."""
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*parents, *([node.module] if node.module else [])])
        return {alias.asname or alias.name: f"{module}:{alias.name}" for alias in node.names}
    meanings = {}
    for alias in node.names:
        meanings[alias.asname or alias.name] = alias.name
        if not alias.asname:  # `import a.b` defines a
            meanings[alias.name.partition(".")[0]] = alias.name.partition(".")[0]
    return meanings


def _uses(parts: Iterable[ast.AST]) -> tuple[tuple[str, ...], ...]:
    """Return every name that is used, with the attributes behind it: ("plots", "results", "draw").

    `parts` are in the order of `ast.walk`: the whole of such a chain comes before the parts of it.
    """
    uses: dict[tuple[str, ...], None] = {}
    inside: set[int] = set()  # of a chain that was seen
    for part in parts:
        if id(part) in inside or not isinstance(part, ast.Name | ast.Attribute):
            continue
        attributes, inner = [], part
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
            inside.add(id(inner))
        if isinstance(inner, ast.Name):
            uses[inner.id, *attributes] = None
        else:
            inside.discard(id(inner))
    return tuple(uses)


def _text(value: object) -> str:
    """Return a tree as text: the same in every version of Python, and without what does not matter."""
    if isinstance(value, list):
        return f"[{', '.join(_text(item) for item in value)}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    parts = []
    for name, part in ast.iter_fields(value):
        if part is not None and part != [] and name not in ("ctx", "kind", "type_comment"):
            parts.append(f"{name}={_text(part)}")
    return f"{type(value).__name__}({', '.join(parts)})"


class _Strip(ast.NodeTransformer):
    """Remove what cannot change a result: docstrings, help texts, the words of messages, annotations of arguments."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node.func, ast.Name | ast.Attribute) else ""
        to_a_file = any(keyword.arg == "file" for keyword in node.keywords)
        if called in MESSAGES and not to_a_file:
            node.args = [_without_words(argument) for argument in node.args]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _without_words(argument: ast.expr) -> ast.expr:
    """Return an argument of a message with its texts emptied; what it computes stays."""
    for part in ast.walk(argument):
        if isinstance(part, ast.JoinedStr):
            part.values = [value for value in part.values if not isinstance(value, ast.Constant)]
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = ""
    return argument
