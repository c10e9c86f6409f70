"""From the tests of a prompt to what the driver in `driver` does with a program: pure, and nothing is run."""

from __future__ import annotations

import ast
import builtins
import functools
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from halo_forge.core.errors import ConfigError

_BUILTINS = frozenset(dir(builtins))
# With one of these, a statement means something else outside of its function.
_BOUND_TO_FUNCTION = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class PreparedTests:
    """Tests in the form that all kinds share.

    Attributes:
        entry_point: What the program must define, None where the tests name nothing of it.
        names: (name in the tests, name in the program) of all that the tests may use of the program.
        steps: (whether it is a check, source) in order; a step that is not a check prepares the checks after it.
        head: The opening of the function, which a program may continue; "" where there is none.
        context: `head` as a program: what it defines is there for the program.
        tests_use_context: The tests use a definition of `context` themselves.
    """

    entry_point: str | None
    names: tuple[tuple[str, str], ...]
    steps: tuple[tuple[bool, str], ...]
    head: str = ""
    context: str = ""
    tests_use_context: bool = False

    @property
    def num_checks(self) -> int:
        return sum(is_check for is_check, _ in self.steps)


@functools.lru_cache(maxsize=4096)
def prepare_humaneval(entry_point: str, test: str, head: str) -> PreparedTests:
    """Each top-level statement of `check` that asserts something is a check, as far as they can be separated.

    `assert True` asserts nothing and is not a check.  What follows the last check belongs to it: it may fail too.
    What `head` defines next to the entry point (a helper, an import) is there for the program, and the tests use it as
    `head` has it, never as the program redefines it.

    Raises:
        ValueError: `test` or `head` is not valid Python, `test` has no `check(candidate)`, or uses a name that
            neither it nor `head` defines.
    """
    tree = _parsed(test, "test")
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if not checks or len(checks[-1].args.args) != 1:
        raise ValueError("`test` defines no function `check` of one argument")
    context = _context(head)
    candidate = checks[-1].args.args[0].arg
    before = [node for node in tree.body if node not in checks]
    steps = [(False, ast.unparse(ast.Module(before, [])))] if before else []
    body = checks[-1].body
    if _can_be_split(checks[-1]):
        steps += [(_asserts(node), ast.unparse(node)) for node in body if not _is_nothing(node)]
    if not any(is_check for is_check, _ in steps):
        steps = [(False, test), (True, f"check({candidate})")]
    while not steps[-1][0]:
        _, after = steps.pop()
        steps[-1] = (steps[-1][0], f"{steps[-1][1]}\n{after}")
    used = _names(tree, ast.Load)
    names = [(candidate, entry_point)] + ([(entry_point, entry_point)] if entry_point in used else [])
    shared = _names(_parsed(context, "prompt"), ast.Store) - {entry_point}
    unknown = used - _names(tree, ast.Store) - shared - _BUILTINS - {candidate, entry_point}
    if unknown and not _imports_everything(tree, _parsed(context, "prompt")):
        raise ValueError(f"`test` uses {', '.join(sorted(unknown))}, which neither it nor `prompt` defines")
    return PreparedTests(entry_point, tuple(names), tuple(steps), head, context, bool(used & shared))


@functools.lru_cache(maxsize=4096)
def prepare_asserts(entry_point: str | None, setup: str, tests: tuple[str, ...]) -> PreparedTests:
    """Each of `tests` is a check; the names that neither they nor `setup` nor Python defines are the program's.

    A builtin stays what it is, whatever the program makes of it, unless it is the `entry_point` or the tests call
    nothing else.  A module of the standard library that only its attributes are used of is imported.

    Raises:
        ValueError: Something is not valid Python, asserts nothing, or calls nothing of the program.
    """
    trees = [_parsed(test, f"test {number}") for number, test in enumerate(tests, start=1)]
    for number, tree in enumerate(trees, start=1):
        if not _asserts(tree):
            raise ValueError(f"test {number} asserts nothing: {tests[number - 1][:100]!r}")
        if _never_holds(tree):
            raise ValueError(f"test {number} cannot hold: {tests[number - 1][:100]!r}")
    whole = ast.Module([node for tree in [_parsed(setup, "setup"), *trees] for node in tree.body], [])
    free = _names(whole, ast.Load) - _names(whole, ast.Store) - _BUILTINS
    called = [name for tree in trees for name in _called(tree)]
    modules = {name for name in free if name in sys.stdlib_module_names and name not in called} - {entry_point}
    free -= modules
    if entry_point is None:
        ours = [name for name in called if name in free] or called[:1]
        if not ours:
            raise ValueError("the tests call nothing of the program")
        entry_point = ours[0]
    names = sorted(free | {entry_point})
    steps = [(False, f"import {name}") for name in sorted(modules)]
    steps += [(False, setup)] if setup.strip() else []
    return PreparedTests(
        entry_point, tuple((name, name) for name in names), (*steps, *((True, test) for test in tests))
    )


def stub_program(prepared: PreparedTests) -> str:
    """A program that defines all that the tests may use of one, and is of no use."""
    names = sorted({name for _, name in prepared.names})
    return "".join(f"def {name}(*args, **kwargs):\n    return None\n" for name in names)


def imports_something(prepared: PreparedTests) -> bool:
    """Whether modules have to be there for the tests to work, those for `context` included."""
    trees = [ast.parse(source) for source in (prepared.context, *(source for _, source in prepared.steps))]
    return any(isinstance(node, ast.Import | ast.ImportFrom) for tree in trees for node in ast.walk(tree))


@functools.lru_cache(maxsize=4096)
def refuse_undefined(prompt_id: str, prepared: PreparedTests, reference: str) -> None:
    """A reference that cannot be read is not looked at: nothing follows from it.

    Raises:
        ConfigError: The tests expect a name of a program that `reference` does not define.
    """
    try:
        tree = _parsed(reference, "reference")
    except ValueError:
        return
    undefined = sorted({name for _, name in prepared.names} - _names(tree, ast.Store) - _BUILTINS)
    if undefined and not _imports_everything(tree):
        raise ConfigError(
            f"prompt {prompt_id!r}: its tests use {', '.join(undefined)}, which neither they nor the reference define",
            "correct the name, define it in tests.setup, or in the reference where programs are to define it",
        )


def refuse_unimported(source: str, entry_point: str | None) -> None:
    """A harness that cannot be read, or may define names in ways that cannot be seen, is not looked at.

    Raises:
        ConfigError: It uses a name that neither it nor Python defines: it would fail whatever the program is.
    """
    try:
        tree = _parsed(source, "harness")
    except ValueError:
        return
    used = _names(tree, ast.Load)
    if _imports_everything(tree) or used & {"NameError", "exec", "globals", "locals", "vars", "setattr"}:
        return
    unknown = used - _names(tree, ast.Store) - _BUILTINS - {"exit", "quit"}
    unknown = {name for name in unknown if not name.startswith("__")}
    if unknown:
        imported = entry_point if entry_point in unknown else min(unknown)
        raise ConfigError(
            f"the harness of a prompt uses {', '.join(sorted(unknown))}, which it neither defines nor imports",
            f"begin `tests.source` in the prompt file with `from answer import {imported}`",
        )


def _parsed(source: str, where: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            # Old code escapes carelessly; that is nothing the user of the set can fix.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, where, "exec", dont_inherit=True)  # `return` outside of a function parses
            return tree
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid Python: {error}") from error


def _context(head: str) -> str:
    """`head` with a body, if it has none."""
    try:
        _parsed(head, "prompt")
    except ValueError:
        with_body = f"{head.rstrip()}\n    pass\n"
        _parsed(with_body, "prompt")
        return with_body
    return head


def _asserts(node: ast.AST) -> bool:
    """Whether it can fail by what it says: `assert True` cannot; `assert False` can, where something leads past it."""
    return any(
        (isinstance(each, ast.Assert) and not (isinstance(each.test, ast.Constant) and each.test.value))
        or (isinstance(each, ast.Raise) and each.exc is not None and "AssertionError" in _names(each.exc, ast.Load))
        for each in ast.walk(node)
    )


def _never_holds(tree: ast.Module) -> bool:
    return any(
        isinstance(each, ast.Assert) and isinstance(each.test, ast.Constant) and not each.test.value
        for each in tree.body
    )


def _imports_everything(*trees: ast.Module) -> bool:
    imports = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(alias.name == "*" for node in imports for alias in node.names)


def _is_nothing(node: ast.stmt) -> bool:
    """A docstring, `pass` or `assert True`."""
    constant = node.value if isinstance(node, ast.Expr) else node.test if isinstance(node, ast.Assert) else None
    return isinstance(node, ast.Pass) or isinstance(constant, ast.Constant)


def _can_be_split(function: ast.FunctionDef) -> bool:
    def within(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            yield child
            if not isinstance(child, _SCOPES):
                yield from within(child)

    plain = not function.decorator_list and not function.args.defaults
    return plain and not any(isinstance(node, _BOUND_TO_FUNCTION) for node in within(function))


def _names(tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """Names that are read, or names that are bound in any way."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
    if context is ast.Store:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name is not None:
                found.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest is not None:
                found.add(node.rest)
    return found


def _called(tree: ast.AST) -> list[str]:
    return [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
