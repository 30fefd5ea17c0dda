"""Small mistakes in Python code, made from its syntax tree; the rest of the text stays as it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """Of one file: the text between two offsets, in bytes, and what takes its place."""

    function: str
    what: str
    begin: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.begin] + self.text.encode() + source[self.end :]


def mutations(source: bytes) -> Iterator[Mutation]:
    """Every mutation of the functions of a module."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def of(node: ast.expr | ast.stmt, text: str, what: str, function: str) -> Mutation:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        return Mutation(function, what, begin, end, text)

    def visit(node: ast.AST, function: str) -> Iterator[Mutation]:
        if isinstance(node, ast.AnnAssign):  # not its annotation
            yield from visit(node.value, function) if node.value else ()
            return
        for child in ast.iter_child_nodes(node):
            name = function
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                name = f"{function}.{child.name}".removeprefix(".")
            if isinstance(child, (ast.arg, ast.Import, ast.ImportFrom)):
                continue
            if name:
                for text, what in changes(child):
                    yield of(child, text, what, name)  # type: ignore[arg-type]
            yield from visit(child, name)

    yield from visit(ast.parse(source), "")


def changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(new text, what was done) of a node."""
    old = ast.unparse(node)
    shown = old if len(old) <= 60 else old[:57] + "..."
    if isinstance(node, ast.Compare):
        ops = [FLIPPED[type(node.ops[0])](), *node.ops[1:]]
        new = ast.unparse(ast.Compare(node.left, ops, node.comparators))
        yield f"({new})", f"`{shown}`: {_word(node.ops[0])} becomes {_word(ops[0])}"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})", f"`{shown}`: the not dropped"
    elif isinstance(node, ast.BoolOp):
        op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        word = "or" if isinstance(op, ast.Or) else "and"
        yield f"({ast.unparse(ast.BoolOp(op, node.values))})", f"`{shown}`: joined by {word}"
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield str(node.value + 1), f"`{node.value}` becomes {node.value + 1}"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "pass", f"`{shown}` removed"
    elif isinstance(node, ast.Return) and node.value is not None and old != "return None":
        yield "return None", f"`{shown}`: returns None"


def _word(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]
