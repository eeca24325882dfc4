"""Mutations of a module: one change of its syntax tree each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{a: b for pair in ((ast.Add, ast.Sub), (ast.Mult, ast.Div)) for a, b in (pair, pair[::-1])},
    **{a: b for pair in ((ast.Lt, ast.Gt), (ast.LtE, ast.GtE), (ast.Eq, ast.NotEq)) for a, b in (pair, pair[::-1])},
    ast.FloorDiv: ast.Mult,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
PAIRS = (
    ("student", "teacher"),
    ("ours", "theirs"),
    ("s", "t"),
    ("mine", "theirs"),
    ("before", "after"),
    ("target", "given"),
)
"""Names whose order as arguments matters."""
SYMMETRIC = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "cosine_similarity", "minimum", "maximum", "zip")
"""Calls whose first two arguments may change places."""
ROUNDING = 1e-6
"""Constants below guard against rounding; twice as much does as well."""
SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.ImportFrom, ast.Import)
"""What is not mutated: messages, and what mypy guards."""


@dataclass(frozen=True)
class Mutation:
    """One change of one module.

    Attributes:
        path: of the module, relative to the repository.
        where: function or class that holds the change.
        line: in the module as it is.
        change: what was and what is instead, on one line.
        source: of the whole module with the change.
    """

    path: str
    where: str
    line: int
    change: str
    source: str

    @property
    def name(self) -> str:
        """Name that stays when lines move."""
        return f"{self.path} {self.where}: {self.change}"


def mutations(path: str, source: str) -> list[Mutation]:
    """List every mutation of a module; the same source gives the same list."""
    tree = ast.parse(source)
    found = []
    for statement, where in _statements(tree, "module"):
        for node in [statement, *_expressions(statement)]:
            for changed in _changes(node):
                found.append(_applied(path, tree, where, statement, node, changed))
    return found


def _statements(node: ast.AST, where: str) -> Iterator[tuple[ast.stmt, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SKIPPED):
            continue
        inside = f"{where}.{child.name}".removeprefix("module.") if hasattr(child, "name") else where
        if isinstance(child, ast.stmt) and not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child, where
        yield from _statements(child, inside)


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions of a statement itself, outside of annotations and of the statements in it."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (*SKIPPED, ast.stmt)):
                if isinstance(child, ast.expr):
                    yield child
                yield from _expressions(child)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield _with(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Pow | ast.Div):
        yield node.left
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield node.right
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield _with(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.Constant) and _counts(node.value):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Call) and len(node.args) > 1 and _ordered(node):
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and _of_itself(node)):
        yield ast.Pass()


def _counts(value: object) -> bool:
    return type(value) in (int, float) and (value == 0 or abs(value) >= ROUNDING)  # type: ignore[operator, arg-type]


def _ordered(call: ast.Call) -> bool:
    """Whether a call takes a pair, such as student and teacher, whose order matters."""
    one, two = (ast.unparse(argument) for argument in call.args[:2])
    if ast.unparse(call.func).endswith(SYMMETRIC):
        return False
    return any(one.replace(a, b) == two and one != two for pair in PAIRS for a, b in (pair, pair[::-1]))


def _of_itself(node: ast.Assign) -> bool:
    target = node.targets[0]
    read = [n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)]
    return isinstance(target, ast.Name) and target.id in read


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _applied(path: str, tree: ast.Module, where: str, statement: ast.stmt, node: ast.AST, changed: ast.AST) -> Mutation:
    swap = _Swap(node, changed)
    source = ast.unparse(ast.fix_missing_locations(swap.visit(tree)))
    after = ast.unparse(ast.fix_missing_locations(swap.visit(statement) if statement is not node else changed))
    first, last = (text.splitlines()[0] for text in (ast.unparse(statement), after))
    return Mutation(path, where, getattr(node, "lineno", statement.lineno), f"{first} => {last}", source)


class _Swap(ast.NodeTransformer):
    """One node in place of another, in a copy of what holds it."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._old:
            return self._new
        held = copy.copy(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(held, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
            elif isinstance(value, ast.AST):
                setattr(held, name, self.visit(value))
        return held
