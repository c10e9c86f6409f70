"""From the tests of a prompt to what the driver in `driver` does with a program: pure, and nothing is run."""

from __future__ import annotations

import ast
import builtins
import functools
import symtable
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.python.collect import (
    UnusableTests,
    asserting_statements,
    collect,
    makers_of_objects,
    refuse_classes_of_the_program,
    refuse_coroutines_of_the_program,
    refuse_objects_of_the_tests,
    refuse_unusable,
    uncollected,
)
from halo_forge.verifiers.python.driver.assertions import Assertions, name_of, walk

_BUILTINS = frozenset(dir(builtins))
_MODULES = sys.stdlib_module_names | {"pytest"}
PROGRAM_MODULES = ("answer", "solution")
"""By these names tests and harnesses import the program; `driver/harness.py` provides them."""
PROVIDED = {"pytest", "unittest", "numpy"}
"""See `driver/stand_ins.py`."""
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
        context: `head` as a program, or imports: what it defines is there for the program.
        tests_use_context: The tests use a definition of `context` themselves.
        class_calls: The sources of checks that call a method of a test class.
        modules: The modules among the tests' imports that the driver provides or prepares.
        counts_assertions: A check may end without having asserted anything: that is counted.
    """

    entry_point: str | None
    names: tuple[tuple[str, str], ...]
    steps: tuple[tuple[bool, str], ...]
    head: str = ""
    context: str = ""
    tests_use_context: bool = False
    class_calls: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    counts_assertions: bool = False

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
        ValueError: `test` or `head` is not valid Python, `test` has no `check(candidate)`, asserts nothing, or uses a
            name that neither it nor `head` defines.
    """
    tree = _parsed(test, "test")
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if not checks or len(checks[-1].args.args) != 1:
        raise ValueError("`test` defines no function `check` of one argument")
    context = _context(head)
    candidate = checks[-1].args.args[0].arg
    before = [node for node in tree.body if node not in checks and not _calls_check(node)]
    asserts = asserting_statements(tree, checks[-1], [candidate, entry_point])
    steps = [(False, ast.unparse(ast.Module(before, [])))] if before else []
    if _can_be_split(checks[-1]):
        steps += [(node in asserts, ast.unparse(node)) for node in checks[-1].body if not _is_nothing(node)]
    if not any(is_check for is_check, _ in steps):
        calls_itself = any(map(_calls_check, tree.body))
        whole = ast.unparse(ast.Module([*before, checks[-1]], [])) if calls_itself else test
        steps = [(False, whole), (True, f"check({candidate})")]
    steps = _ending_with_a_check(steps)
    used = _names(tree, ast.Load)
    names = [(candidate, entry_point)] + ([(entry_point, entry_point)] if entry_point in used else [])
    shared = _names(_parsed(context, "prompt"), ast.Store) - {entry_point}
    unknown = used - _names(tree, ast.Store) - shared - _BUILTINS - {candidate, entry_point}
    if unknown and not _imports_everything(tree, _parsed(context, "prompt")):
        raise ValueError(f"`test` uses {', '.join(sorted(unknown))}, which neither it nor `prompt` defines")
    return PreparedTests(
        entry_point,
        tuple(names),
        tuple(steps),
        head,
        context,
        bool(used & shared),
        modules=_provided([tree]),
        counts_assertions=not all(_surely_asserts(source) for is_check, source in steps if is_check),
    )


def _calls_check(node: ast.stmt) -> bool:
    """Whether a statement is the call `check(entry_point)`, which the driver makes itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and name_of(node.value.func) == "check"


def _ending_with_a_check(steps: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """What comes after the last check belongs to it: it may fail too."""
    while not steps[-1][0]:
        _, after = steps.pop()
        steps[-1] = (steps[-1][0], f"{steps[-1][1]}\n{after}")
    return steps


@functools.lru_cache(maxsize=4096)
def prepare_asserts(
    entry_point: str | None, setup: str, tests: tuple[str, ...], labels: tuple[str, ...] = (), imports: str = ""
) -> PreparedTests:
    """Each of `tests` is a check, or as many as there are functions and methods in it that `collect` finds.

    The names that neither they nor `setup` nor Python defines are the program's, and those that they import from the
    modules `answer` and `solution`.  A builtin stays what it is, whatever the program makes of it, unless it is the
    `entry_point` or the tests call nothing else.  A module of the standard library that only its attributes are used of
    is imported.

    Args:
        labels: What messages call the tests, "test 1" and so on by default.
        imports: Code whose names are there for the program, and not for the tests.

    Raises:
        ValueError: Something is not valid Python, cannot be run, asserts nothing, or calls nothing of the program.
    """
    labels = labels or tuple(f"test {number}" for number in range(1, len(tests) + 1))
    _parsed(imports, "imports")
    before = _parsed(setup, "setup")
    trees = [_parsed(test, label) for test, label in zip(tests, labels, strict=True)]
    whole = ast.Module([node for tree in [before, *trees] for node in tree.body], [])
    imported = dict(_imported_from_program(whole))
    free = (_used_globals((setup, *tests)) - _BUILTINS) | set(imported)
    called = [name for tree in trees for name in _called(tree)]
    modules = {name for name in free if name in _MODULES and name not in called} - {entry_point, *imported}
    free -= modules
    assertions = Assertions([before, *trees], sorted(free | {entry_point or ""}))
    _refuse_idle_setup(before, whole)
    makers = makers_of_objects(whole)
    steps = [(False, f"import {name}") for name in sorted(modules)]
    steps += [(False, setup)] if setup.strip() else []
    class_calls: list[str] = []
    for test, tree, label in zip(tests, trees, labels, strict=True):
        if _never_holds(tree):
            raise ValueError(f"{label} cannot hold: {test[:100]!r}")
        refuse_classes_of_the_program(tree, label, free)
        refuse_coroutines_of_the_program(tree, label, free)
        refuse_objects_of_the_tests(tree, label, makers, free | ({entry_point} if entry_point else set()))
        collected = collect(test, tree, label, assertions)
        steps += collected.steps
        class_calls += collected.class_calls
    if entry_point is None:
        # A function that is only passed on, as in `check(area)`, is the program's all the same.
        ours = [name for names in (called, _passed(trees)) for name in names if name in free] or called[:1]
        if not ours:
            raise ValueError("the tests call nothing of the program")
        entry_point = imported.get(ours[0], ours[0])
    names = {name: imported.get(name, name) for name in sorted(free | {entry_point})}
    return PreparedTests(
        entry_point,
        tuple(names.items()),
        tuple(steps),
        context=imports,
        class_calls=tuple(class_calls),
        modules=_provided([whole]),
        counts_assertions=not all(_surely_asserts(source) for is_check, source in steps if is_check),
    )


def _refuse_idle_setup(setup: ast.Module, whole: ast.Module) -> None:
    refuse_unusable(setup, "setup")
    idle = [label for label in uncollected(setup, "setup") if label.partition(".")[0] not in _names(whole, ast.Load)]
    if idle:
        raise UnusableTests(f"setup defines the test `{idle[0]}`, which nothing runs", "move it into `tests`")


def _imported_from_program(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name in the tests, name in the program) of what is imported from the program's module."""
    for node in walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in PROGRAM_MODULES:
            yield from ((each.asname or each.name, each.name) for each in node.names if each.name != "*")


def _provided(trees: list[ast.Module]) -> tuple[str, ...]:
    nodes = [node for tree in trees for node in walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}  # those that are imported for the tests
    return tuple(sorted({name.partition(".")[0] for name in names} & PROVIDED))


def _surely_asserts(source: str) -> bool:
    """Whether a check that ends without an exception has asserted something, as its text alone shows."""
    tree = ast.parse(source)
    leaves = any(name_of(node) in ("exit", "quit", "_exit", "SystemExit") for node in walk(tree))
    return not leaves and any(
        isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant) for node in tree.body
    )


def stub_program(prepared: PreparedTests) -> str:
    """A program that defines all that the tests may use of one, and is of no use."""
    names = sorted({name for _, name in prepared.names})
    return "".join(f"def {name}(*args, **kwargs):\n    return None\n" for name in names)


def imports_something(prepared: PreparedTests) -> bool:
    """Whether modules have to be there for the tests to work, those for `context` included."""
    trees = [ast.parse(source) for _, source in prepared.steps]
    context = ast.parse(prepared.context)
    if prepared.head or not all(name.partition(".")[0] in _MODULES for name in _modules_of(context)):
        trees.append(context)  # imports of the standard library alone need no trial, of which there is one per prompt
    return any(isinstance(node, ast.Import | ast.ImportFrom) for tree in trees for node in walk(tree))


def _modules_of(tree: ast.Module) -> Iterator[str]:
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def names_of_numpy(prepared: PreparedTests) -> set[str]:
    """What the tests use of numpy, such as "allclose" and "testing.assert_allclose"."""
    trees = [ast.parse(source) for _, source in prepared.steps]
    nodes = [node for tree in trees for node in walk(tree)]
    modules = {"numpy": ""}
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {
                alias.asname: alias.name[5:].lstrip(".") for alias in node.names if _is_numpy(alias) and alias.asname
            }
        elif isinstance(node, ast.ImportFrom) and node.module in ("numpy", "numpy.testing"):
            inner = node.module[5:].lstrip(".")
            found |= {f"{inner}.{alias.name}".lstrip(".") for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owner, _, rest = ast.unparse(node).partition(".") if _is_path(node) else ("", "", "")
            if owner in modules:
                found.add(f"{modules[owner]}.{rest}".lstrip("."))
    return found


def _is_numpy(alias: ast.alias) -> bool:
    return alias.name.split(".")[0] == "numpy"


def _is_path(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_path(node.value))


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


def _never_holds(tree: ast.Module) -> bool:
    return any(
        isinstance(each, ast.Assert) and isinstance(each.test, ast.Constant) and not each.test.value
        for each in tree.body
    )


def _imports_everything(*trees: ast.Module) -> bool:
    imports = (node for tree in trees for node in walk(tree) if isinstance(node, ast.ImportFrom))
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
    found = {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
    if context is ast.Store:
        for node in walk(tree):
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


def _used_globals(sources: tuple[str, ...]) -> set[str]:
    """The names that some scope reads from the module, and that the module does not bind.

    `area` is one in `def check(area): ...` followed by `check(area)`: what a function binds is its own.
    """
    read: set[str] = set()
    bound: set[str] = set()
    for scope in _scopes(sources):
        for symbol in scope.get_symbols():
            if scope.get_type() == "module" or symbol.is_global():
                read |= {symbol.get_name()} if symbol.is_referenced() else set()
                bound |= {symbol.get_name()} if _binds(symbol) else set()
    return read - bound


def _scopes(sources: tuple[str, ...]) -> Iterator[symtable.SymbolTable]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `_parsed`
        try:
            scopes = [symtable.symtable(source, "tests", "exec") for source in sources]
        except SyntaxError as error:
            raise ValueError(f"the tests are not valid Python: {error.msg}") from error
    for scope in scopes:
        yield scope
        scopes += scope.get_children()


def _binds(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()


def _passed(trees: list[ast.Module]) -> list[str]:
    calls = [node for tree in trees for node in walk(tree) if isinstance(node, ast.Call)]
    values = [value for call in calls for value in (*call.args, *(each.value for each in call.keywords))]
    return [node.id for value in values for node in walk(value) if isinstance(node, ast.Name)]


def _called(tree: ast.AST) -> list[str]:
    return [node.func.id for node in walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
