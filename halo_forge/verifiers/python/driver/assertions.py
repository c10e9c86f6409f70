"""What asserts something in a test, and code that counts the assertions that held.

A test that runs to its end without having asserted anything has shown nothing.  Counted are

- an `assert`, and a call of a function named `assert...` that the tests did not define themselves, once it has held;
- a `with pytest.raises(...)` or `with self.assertRaises(...)`, once it is over;
- an `assert` whose condition raised, where the tests expect that: in a `try` which names the exceptions it catches.
  Where it catches all of them, an assertion that failed is swallowed too, and nothing was shown;
- where a statement can only fail (`assert False`, `raise AssertionError`, `pytest.fail()`), that what leads past it is
  reached: the `if`, `try` or loop around it.
"""

from __future__ import annotations

import ast

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = "__assertion_held__"
"""The function that counting code calls."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*FUNCTIONS, ast.ClassDef)
_CATCH_FAILURES = ("AssertionError", "Exception", "BaseException")
_CONTEXTS = ("raises", "assertRaises", "assertRaisesRegex", "assertWarns", "assertWarnsRegex", "assertLogs")


def always_true(node: ast.expr) -> bool:
    """Whether an expression is true whatever the program does: `(x, "message")`, `[...]`, a generator, `True`."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return bool(node.elts) and not all(isinstance(each, ast.Starred) for each in node.elts)
    if isinstance(node, ast.Dict):
        return any(key is not None for key in node.keys)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.BoolOp):
        return (any if isinstance(node.op, ast.Or) else all)(map(always_true, node.values))
    return isinstance(node, (ast.Lambda, ast.GeneratorExp))


def name_of(node: ast.AST) -> str:
    """The last part of a name such as `pytest.raises`; "" of anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements directly within a statement."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list) and block:
            yield block
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """`ast.walk`, without what is inside of lists, tuples, sets and dicts of nothing but literals.

    Tests may hold megabytes of them, and nothing that is looked for.
    """
    todo = [node]
    for each in todo:
        yield each
        if not _is_plain(each):
            todo.extend(ast.iter_child_nodes(each))


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """As `walk`, and without the bodies of functions that are only defined; a class has its methods."""
    todo = [node]
    for each in todo:
        yield each
        if not _is_plain(each):
            in_class = isinstance(each, ast.ClassDef)
            children = ast.iter_child_nodes(each)
            todo.extend(child for child in children if in_class or not isinstance(child, FUNCTIONS))


def _is_plain(node: ast.AST) -> bool:
    """Whether it is a container of literals, which is remembered in the node."""
    if not isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
        return False
    known: bool | None = getattr(node, "is_plain", None)
    if known is None:
        parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else node.elts
        known = all(
            isinstance(part, ast.Constant)
            or (isinstance(part, ast.UnaryOp) and isinstance(part.operand, ast.Constant))
            or (part is not None and _is_plain(part))
            for part in parts
        )
        node.is_plain = known  # type: ignore[union-attr]
    return known


class Assertions:
    """Knows the assertions in some tests.

    Args:
        trees: All of the tests: what they define themselves is no assertion by its name alone.
        foreign: Names of the program, which are none either.
    """

    def __init__(self, trees: list[ast.Module], foreign: list[str]) -> None:
        functions = [node for tree in trees for node in walk(tree) if isinstance(node, FUNCTIONS)]
        self._own = {node.name for node in functions} | set(foreign)
        self._failing: set[str] = set()
        found = True
        while found:  # a function may fail by calling one that does
            new = {node.name for node in functions if any(map(self.can_only_fail, node.body))} - self._failing
            found = bool(new)
            self._failing |= new

    def can_only_fail(self, node: ast.stmt) -> bool:
        """Whether a statement, once reached, fails the test."""
        if isinstance(node, ast.Assert):
            return isinstance(node.test, ast.Constant) and not node.test.value
        if isinstance(node, ast.Raise) and node.exc is not None:
            kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return name_of(kind) in ("AssertionError", "failureException")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            return name_of(called) in self._failing or (isinstance(called, ast.Attribute) and called.attr == "fail")
        return False

    def holds_after(self, node: ast.stmt) -> bool:
        """Whether a statement is an assertion that has held when it is over."""
        if isinstance(node, ast.Assert):
            return not isinstance(node.test, ast.Constant) and not always_true(node.test)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            return any(self._is_context(item.context_expr) for item in node.items)
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
            return False
        name = name_of(node.value.func)
        if name in _CONTEXTS:
            return len(node.value.args) > 1 and name not in self._own
        return name.startswith("assert") and name not in self._own

    def _is_context(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and name_of(node.func) in _CONTEXTS and name_of(node.func) not in self._own

    def leads_past_a_failure(self, node: ast.stmt) -> bool:
        """Whether a statement contains one that can only fail, with no other statement around that one."""
        return not isinstance(node, _SCOPES) and any(
            self.can_only_fail(each) for block in blocks(node) for each in block
        )

    def within(self, node: ast.AST) -> bool:
        """Whether there is an assertion among the `executed` statements."""
        return any(
            isinstance(each, ast.stmt)
            and (self.holds_after(each) or self.can_only_fail(each) or self.leads_past_a_failure(each))
            for each in executed(node)
        )

    def counting(self, tree: ast.Module) -> ast.Module:
        """`tree`, changed in place, which calls `COUNT` for each assertion that holds."""
        self._count_in(tree.body, may_raise=False)
        return tree

    def _count_in(self, block: list[ast.stmt], *, may_raise: bool) -> None:
        """Adds the calls.

        Args:
            may_raise: Whether a `try` of the tests around the block expects exceptions, and not failures.
        """
        counted: list[ast.stmt] = []
        for node in block:
            leads_past = self.leads_past_a_failure(node)
            for inner in blocks(node):
                expected = isinstance(node, ast.Try) and inner is node.body and _expects_exceptions(node)
                self._count_in(inner, may_raise=expected or (may_raise and not isinstance(node, _SCOPES)))
            if isinstance(node, FUNCTIONS) and any(map(self.can_only_fail, node.body)):
                # `return` in a statement before leads past it; where nothing does, the function never returns.
                first = int(ast.get_docstring(node, clean=False) is not None)
                node.body.insert(first, _count(node.body[0]))
            if leads_past:
                counted.append(_count(node))
            counted.append(_count_raised(node) if may_raise and isinstance(node, ast.Assert) else node)
            if self.holds_after(node):
                counted.append(_count(node))
        block[:] = counted


def _expects_exceptions(node: ast.Try) -> bool:
    named = [each.elts if isinstance(each, ast.Tuple) else [each] for each in (each.type for each in node.handlers)]
    return bool(named) and all(
        kind is not None and name_of(kind) not in _CATCH_FAILURES for kinds in named for kind in kinds
    )


def _count_raised(node: ast.Assert) -> ast.stmt:
    """The assertion, which also counts if its condition raises."""
    failed = ast.ExceptHandler(ast.Name("AssertionError", ast.Load()), None, [ast.Raise()])
    raised = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [_count(node), ast.Raise()])
    return ast.fix_missing_locations(ast.copy_location(ast.Try([node], [failed, raised], [], []), node))


def _count(beside: ast.stmt) -> ast.stmt:
    call = ast.Expr(ast.Call(ast.Name(COUNT, ast.Load()), [], []))
    return ast.fix_missing_locations(ast.copy_location(call, beside))
