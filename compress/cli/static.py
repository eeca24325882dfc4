"""Settings and docstrings read from source text, so that listing stages and losses imports no PyTorch.

What cannot be read so (code of others that computes its defaults) raises ``UnreadableError``; the caller then imports it.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

Function = ast.FunctionDef | ast.AsyncFunctionDef


class UnreadableError(Exception):
    """The source does not say it in so many words."""


@final
@dataclass(frozen=True, kw_only=True)
class Definition:
    """A function or class, and the module that it is in."""

    node: Function | ast.ClassDef
    module: SourceModule

    @property
    def first_line(self) -> str:
        """Return the first line of its docstring."""
        return (ast.get_docstring(self.node) or "").partition("\n")[0]

    def reads(self) -> list[str]:
        """Return the positional parameters: of a function, or of ``forward`` of a class."""
        function = self.method("forward") if isinstance(self.node, ast.ClassDef) else self.node
        if function is None:
            return []
        return [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg != "self"]

    def options(self) -> dict[str, Any]:
        """Return the keyword parameters with their defaults: of a function, or of ``__init__`` of a class."""
        function = self.method("__init__") if isinstance(self.node, ast.ClassDef) else self.node
        if function is None:
            return {}
        pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        return {argument.arg: self.module.value(default) for argument, default in pairs}

    def fields(self) -> dict[str, Any]:
        """Return the fields of a dataclass with their defaults, those of its bases first."""
        assert isinstance(self.node, ast.ClassDef)
        fields: dict[str, Any] = {}
        for base in reversed(self.bases()):
            fields |= base.fields()
        for line in self.node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and "ClassVar" not in ast.dump(line):
                fields[line.target.id] = self.module.value(line.value)
        return fields

    def method(self, name: str) -> Function | None:
        """Find a method of the class or of its bases; None where it is torch's."""
        assert isinstance(self.node, ast.ClassDef)
        own = [line for line in self.node.body if isinstance(line, Function) and line.name == name]
        inherited = (base.method(name) for base in self.bases())
        return own[0] if own else next((method for method in inherited if method is not None), None)

    def bases(self) -> list[Definition]:
        """Return the bases that are classes of ours."""
        assert isinstance(self.node, ast.ClassDef)
        found = [self.module.definition(base.id) for base in self.node.bases if isinstance(base, ast.Name)]
        return [base for base in found if base is not None and isinstance(base.node, ast.ClassDef)]


@final
class SourceModule:
    """The source of a module."""

    def __init__(self, name: str) -> None:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            raise UnreadableError(name) from error
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise UnreadableError(name)
        self.name, self._tree = name, ast.parse(Path(spec.origin).read_text())
        self.first_line = (ast.get_docstring(self._tree) or "").partition("\n")[0]

    def definition(self, name: str) -> Definition | None:
        """Find a function or class that the module defines or imports from ours; None for other names."""
        for line in self._tree.body:
            if isinstance(line, Function | ast.ClassDef) and line.name == name:
                return Definition(node=line, module=self)
        module = self._imported_from(name)
        return module.definition(name) if module is not None else None

    def value(self, node: ast.expr | None) -> Any:
        """Evaluate a default: a literal, a constant of the module, a list of losses, or an empty table."""
        if node is None:
            return None
        if isinstance(node, ast.Name):
            return self.constant(node.id)
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if isinstance(node, ast.Call) and called == "parse_losses":
            return [_loss(entry) for entry in self.value(node.args[0])]
        if called == "field":
            return {}
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise UnreadableError(ast.unparse(node)) from None

    def constant(self, name: str) -> Any:
        """Evaluate what the module assigns to a name, or imports under it."""
        for target, value in self._assignments():
            if name in [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]:
                return self._assigned(name, target, value)
        module = self._imported_from(name)
        if module is None:
            raise UnreadableError(name)
        return module.constant(name)

    def _assignments(self) -> Iterator[tuple[ast.expr, ast.expr]]:
        for line in self._tree.body:
            if isinstance(line, ast.Assign):
                yield from ((target, line.value) for target in line.targets)
            elif isinstance(line, ast.AnnAssign) and line.value is not None:
                yield line.target, line.value

    def _assigned(self, name: str, target: ast.expr, value: ast.expr) -> Any:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            names = [n.id for n in target.elts if isinstance(n, ast.Name)]
            return self.value(value.elts[names.index(name)])
        return self.value(value)

    def _imported_from(self, name: str) -> SourceModule | None:
        for line in self._tree.body:
            if isinstance(line, ast.ImportFrom) and name in [alias.asname or alias.name for alias in line.names]:
                ours = (line.module or "").startswith(("compress.", "deploy.", "calib.", "profiles."))
                return source_module(line.module or "") if ours else None
        return None


@functools.cache
def source_module(name: str) -> SourceModule:
    """Parse a module; its packages are imported, it is not."""
    return SourceModule(name)


def definition_of(reference: str) -> Definition:
    """Find the definition of ``package.module:name``.

    Raises:
        UnreadableError: it cannot be read from source.
    """
    module, _, name = reference.partition(":")
    found = source_module(module).definition(name)
    if found is None:
        raise UnreadableError(reference)
    return found


def _loss(entry: Any) -> dict[str, Any]:
    """Fill in a loss of a recipe's list."""
    table: Mapping[str, Any] = {"use": entry} if isinstance(entry, str) else entry
    options = {key: value for key, value in table.items() if key not in ("use", "weight", "layers")}
    return {"use": table["use"], "weight": float(table.get("weight", 1.0)), "options": options}
