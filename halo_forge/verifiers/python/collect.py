"""Finds the tests in a text as pytest does, without pytest: functions and methods by their names.

Collected are functions `test...`, and methods `test...` of classes `Test...` without `__init__` and of subclasses of
`unittest.TestCase`, inherited ones included; each set of values of `@pytest.mark.parametrize` is a test of its own.
What would need pytest itself (fixtures, skipping, plugins) or the program's output is refused.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from halo_forge.verifiers.python.driver.assertions import FUNCTIONS, Assertions, always_true, executed, name_of, walk

# Called as the main program, they run what is collected here anyway.
_RUNNERS = ("unittest.main", "pytest.main")
_SKIPS = (
    "skip",
    "skipif",
    "skipIf",
    "skipUnless",
    "skipTest",
    "xfail",
    "expectedFailure",
    "importorskip",
    "usefixtures",
)
# What the program prints and reads, and what it looks up, is in its own process.
_OUT_OF_REACH = {
    "redirect_stdout": "what the program prints",
    "redirect_stderr": "what the program prints",
    "patch": "the modules of the program",
    "IsolatedAsyncioTestCase": "a coroutine of the program",
}
_OWNERS = ("pytest", "pytest.mark", "mark", "unittest", "unittest.mock", "mock", "self", "contextlib")
_STREAMS = ("sys.stdin", "sys.stdout", "sys.stderr", "builtins.input", "builtins.print")
_CATCHES = ("raises", "assertRaises", "assertRaisesRegex")
_TELLS_CLASSES = ("isinstance", "issubclass", "assertIsInstance", "assertNotIsInstance")
_MODULE_HOOKS = ("setup_module", "setUpModule")
_UNSUPPORTED_HOOKS = (
    "setup_function",
    "teardown_function",
    "teardown_module",
    "tearDownModule",
    "pytest_generate_tests",
)
_STDIO = "test a function that returns its result, or write a whole program with tests of kind stdio"


class UnusableTests(ValueError):
    """Tests that cannot be run, or that would assert nothing.

    Args:
        hint: What to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Collected:
    """The steps that one text comes to.

    Attributes:
        steps: (whether it is a check, source) in order.
        class_calls: The sources among them that call a method of a class.
    """

    steps: tuple[tuple[bool, str], ...]
    class_calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Test:
    """A function or method, and the calls of it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    label: str
    calls: tuple[str, ...]


def collect(text: str, tree: ast.Module, where: str, assertions: Assertions) -> Collected:
    """The tests in `text`, whose syntax tree is `tree`.

    Without a function to collect, the whole text is one check.  With one, what asserts at its top level is a check
    after the collected ones.

    Args:
        where: What to call the text, such as "test 2".

    Raises:
        UnusableTests: Something cannot be run, or asserts nothing.
    """
    refuse_unusable(tree, where)
    tests = list(_tests(tree, where))
    asserting = _asserting(tree, assertions)
    for test in tests:
        if not _reaches(test.node, assertions, asserting):
            raise UnusableTests(
                f"{where}, line {test.node.lineno}: `{test.label}` asserts nothing",
                "let it assert something, or remove it",
            )
    if not tests:
        if not any(_reaches(node, assertions, asserting) for node in _statements(tree)):
            raise UnusableTests(*_asserts_nothing(text, tree, where, asserting))
        return Collected(((True, text),), ())
    steps = list(_around(text, tree, {test.label for test in tests}, assertions, asserting))
    hooks = [(False, _hook_call(node, where)) for node in _functions(tree) if node.name in _MODULE_HOOKS]
    calls = [(True, call) for test in tests for call in test.calls]
    in_classes = tuple(call for test in tests if "." in test.label for call in test.calls)
    return Collected(
        (*(step for step in steps if not step[0]), *hooks, *calls, *(s for s in steps if s[0])), in_classes
    )


def _hook_call(node: ast.FunctionDef, where: str) -> str:
    """The call of `setup_module`, which pytest gives the module if it takes an argument."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    if not parameters or node.name == "setUpModule":
        return f"{node.name}()"
    name = parameters[0].arg
    if any(isinstance(each, ast.Name) and each.id == name for line in node.body for each in ast.walk(line)):
        raise UnusableTests(
            f"{where}, line {node.lineno}: `{node.name}` uses the module, which there is none of",
            f"leave the parameter `{name}` out, and set names with `global`",
        )
    return f"{node.name}(None)"


def _asserts_nothing(text: str, tree: ast.Module, where: str, asserting: set[str]) -> tuple[str, str]:
    idle = [node for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name in asserting]
    if idle:
        kind, name = ("class", "Test") if isinstance(idle[0], ast.ClassDef) else ("function", "test_")
        return (
            f"{where} asserts nothing: nothing runs the {kind} `{idle[0].name}` (line {idle[0].lineno})",
            f"give it a name that begins with {name}, or call it",
        )
    return (
        f"{where} asserts nothing: {text[:100]!r}",
        "let each test assert something; preparations go into tests.setup",
    )


def asserting_statements(tree: ast.Module, check: ast.FunctionDef, foreign: list[str]) -> set[ast.stmt]:
    """The statements of HumanEval's function `check` that assert something when they are executed.

    Raises:
        UnusableTests: There are none, a function that asserts is never called, or something cannot be run.
    """
    refuse_unusable(tree, "`test`")
    assertions = Assertions([tree], foreign)
    asserting = _asserting(tree, assertions)
    used = {name_of(node) for node in walk(tree) if isinstance(getattr(node, "ctx", None), ast.Load)}
    for node in [*tree.body, *walk(check)]:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name in asserting - used - {check.name}:
            raise UnusableTests(
                f"`test`, line {node.lineno}: nothing calls `{node.name}`, so that it asserts nothing",
                f"call it in `{check.name}`",
            )
    found = {node for node in _statements(check) if _reaches(node, assertions, asserting - {check.name})}
    if not found:
        raise UnusableTests("`test` asserts nothing", f"let `{check.name}` assert something about its argument")
    return found


# ---- what is collected


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def uncollected(tree: ast.Module, where: str) -> list[str]:
    """The labels of the tests that are defined in a text from which none is collected."""
    return [test.label for test in _tests(tree, where)]


def _tests(tree: ast.Module, where: str) -> Iterator[_Test]:
    called = {name_of(node.func) for node in walk(tree) if isinstance(node, ast.Call) and (node.args or node.keywords)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    seen: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, FUNCTIONS) and node.name.startswith("test"):
            if _required(node, is_method=False) and not _values_given(node) and node.name in called:
                continue  # a helper, which the tests call themselves
            _refuse_twice(node, node.name, where, seen)
            yield _test(node, node.name, where, is_method=False)
        elif isinstance(node, ast.ClassDef) and _is_test_class(node, classes, where):
            for method in _methods(node, classes, where):
                if method.name.startswith("test"):
                    yield _test(method, f"{node.name}.{method.name}", where, is_method=True)


def _refuse_twice(node: ast.stmt, label: str, where: str, seen: dict[str, int]) -> None:
    first = seen.setdefault(label, node.lineno)
    if first != node.lineno:
        raise UnusableTests(
            f"{where}, line {node.lineno}: `{label}` is defined in line {first} too, and would replace it",
            "give each test a name of its own",
        )


def _is_case(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    bases = [name_of(base) for base in node.bases]
    others = [classes[name] for name in bases if name in classes and classes[name] is not node]
    return "TestCase" in bases or any(_is_case(each, classes) for each in others)


def _is_test_class(node: ast.ClassDef, classes: dict[str, ast.ClassDef], where: str) -> bool:
    if _is_case(node, classes):
        return True
    if not node.name.startswith("Test"):
        return False
    methods = {each.name for each in node.body if isinstance(each, FUNCTIONS)}
    if "__init__" in methods and any(name.startswith("test") for name in methods):
        raise UnusableTests(
            f"{where}, line {node.lineno}: the class `{node.name}` has an `__init__`, so that no test in it is run",
            "rename it to setup_method",
        )
    return True


def _methods(node: ast.ClassDef, classes: dict[str, ast.ClassDef], where: str) -> list[ast.FunctionDef]:
    """Its methods, then those that it inherits from classes of the same text."""
    found: dict[str, ast.FunctionDef] = {}
    seen: dict[str, int] = {}
    for each in node.body:
        if isinstance(each, FUNCTIONS) and each.name.startswith("test"):
            _refuse_twice(each, f"{node.name}.{each.name}", where, seen)
        if isinstance(each, FUNCTIONS):
            found[each.name] = each  # type: ignore[assignment]
    for base in node.bases:
        name = name_of(base)
        if name in classes and classes[name] is not node:
            found = {**{each.name: each for each in _methods(classes[name], classes, where)}, **found}
    return list(found.values())


def _test(node: ast.FunctionDef | ast.AsyncFunctionDef, label: str, where: str, is_method: bool) -> _Test:
    place = f"{where}, line {node.lineno}: `{label}`"
    if isinstance(node, ast.AsyncFunctionDef):
        raise UnusableTests(f"{place} is a coroutine, which needs a plugin of pytest", "write a plain function")
    given = _values_given(node)
    names = [name for each in given for name in _argument_names(each, place)]
    missing = [name for name in _required(node, is_method) if name not in names]
    if missing:
        raise UnusableTests(
            f"{place} takes `{missing[0]}`, which is no value of @pytest.mark.parametrize: fixtures are not run",
            "make what the fixture makes in the test itself, or in setup_method or setUp of a class",
        )
    taken = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    strange = [name for name in names if name not in taken]
    if strange and node.args.kwarg is None:
        raise UnusableTests(
            f"{place} has no parameter `{strange[0]}`, for which parametrize gives values", f"add it to `{label}`"
        )
    return _Test(node, label, tuple(_calls(given, label, place)))


def _required(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> list[str]:
    """The parameters without a default, `self` left out."""
    positional = [*node.args.posonlyargs, *node.args.args]
    is_static = any(name_of(each) == "staticmethod" for each in node.decorator_list)
    required = positional[: len(positional) - len(node.args.defaults)][1 if is_method and not is_static else 0 :]
    keywords = [
        arg for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is None
    ]
    return [arg.arg for arg in (*required, *keywords)]


# ---- parametrize


def _values_given(node: ast.AST) -> list[ast.Call]:
    """The decorators that give values, in the order in which pytest counts them up."""
    decorators = getattr(node, "decorator_list", [])
    return [each for each in reversed(decorators) if isinstance(each, ast.Call) and name_of(each.func) == "parametrize"]


def _argument_names(given: ast.Call, place: str) -> list[str]:
    first = given.args[0] if given.args else None
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return [name.strip() for name in first.value.split(",") if name.strip()]
    parts = first.elts if isinstance(first, ast.List | ast.Tuple) else []
    if not parts or not all(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in parts):
        raise UnusableTests(f"{place}: the names in parametrize cannot be read", 'write them as text: "a, expected"')
    return [str(each.value) for each in parts if isinstance(each, ast.Constant)]


def _calls(given: list[ast.Call], label: str, place: str) -> Iterator[str]:
    if not given:
        yield f"{label}()"
        return
    known = [_values(each, place) for each in given]
    if all(each is not None for each in known):
        for values in itertools.product(*(each for each in known if each is not None)):
            yield f"{label}({', '.join(values)})"
        return
    if "." in label:
        raise UnusableTests(
            f"{place}: the values of parametrize are not written as a list, so that they cannot be counted",
            "write the list into parametrize, or use a function instead of a method",
        )
    loops = [f"for {', '.join(_argument_names(each, place))} in {ast.unparse(each.args[1])}" for each in given]
    names = [f"{name}={name}" for each in given for name in _argument_names(each, place)]
    yield f"[{label}({', '.join(names)}) {' '.join(loops)}]"


def _values(given: ast.Call, place: str) -> list[str] | None:
    """The arguments of each call, None where the source does not tell how many there are."""
    names = _argument_names(given, place)
    if len(given.args) != 2 or any(keyword.arg != "ids" for keyword in given.keywords):
        raise UnusableTests(f"{place}: parametrize takes names and values here, and `ids`", "leave out other arguments")
    values = given.args[1]
    if not isinstance(values, ast.List | ast.Tuple) or any(isinstance(each, ast.Starred) for each in values.elts):
        return None
    if not values.elts:
        raise UnusableTests(f"{place}: parametrize gives no values, so that it never runs", "give it values")
    found = []
    for value in values.elts:
        parts = [value]
        if isinstance(value, ast.Call) and name_of(value.func) == "param":
            parts = value.args
        elif len(names) > 1 or isinstance(given.args[0], ast.List | ast.Tuple):
            if not isinstance(value, ast.List | ast.Tuple):
                return None
            parts = value.elts
        if len(parts) != len(names):
            raise UnusableTests(
                f"{place}: parametrize gives {len(parts)} values for {len(names)} names: {ast.unparse(value)[:100]}",
                f"give values for {', '.join(names)}",
            )
        found.append(", ".join(f"{name}={ast.unparse(part)}" for name, part in zip(names, parts, strict=True)))
    return found


# ---- what is asserted where


def _asserting(tree: ast.Module, assertions: Assertions) -> set[str]:
    """The functions, methods and classes in which an assertion can be reached, directly or by others of them."""
    nodes = [node for node in walk(tree) if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    found: set[str] = set()
    while True:
        new = {node.name for node in nodes if _reaches(node, assertions, found)} - found
        if not new:
            return found
        found |= new


def _reaches(node: ast.AST, assertions: Assertions, asserting: set[str]) -> bool:
    names = {name_of(each) for each in executed(node) if isinstance(each, ast.Name | ast.Attribute)}
    return assertions.within(node) or bool(names & asserting)


def _statements(tree: ast.Module | ast.FunctionDef) -> Iterator[ast.stmt]:
    """The statements in its body that do more than define something."""
    return (node for node in tree.body if not isinstance(node, (*FUNCTIONS, ast.ClassDef)))


def _around(
    text: str, tree: ast.Module, labels: set[str], assertions: Assertions, asserting: set[str]
) -> Iterator[tuple[bool, str]]:
    """What a text has to execute beside the tests that are collected from it."""
    collected = {label.partition(".")[0] for label in labels}
    kept = [node for node in tree.body if not _only_runs(node, collected)]
    reached = asserting - {label.rpartition(".")[2] for label in labels} - collected
    checks = [node for node in kept if node in set(_statements(tree)) and _reaches(node, assertions, reached)]
    if not checks:
        yield False, text if kept == tree.body else ast.unparse(ast.Module(kept, []))
        return
    first = kept.index(checks[0])
    defines = (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)
    before = kept[:first] + [node for node in kept[first:] if isinstance(node, defines)]
    yield False, ast.unparse(ast.Module(before, []))
    yield True, ast.unparse(ast.Module([node for node in kept[first:] if not isinstance(node, defines)], []))


def _only_runs(node: ast.stmt, collected: set[str]) -> bool:
    """Whether a statement does nothing but run tests that are collected anyway: `unittest.main()`, `test_it()`."""
    if isinstance(node, ast.If) and ast.unparse(node.test).replace('"', "'") == "__name__ == '__main__'":
        return not node.orelse and all(_only_runs(each, collected) or _prints(each) for each in node.body)
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value
    return ast.unparse(called.func) in _RUNNERS or (
        isinstance(called.func, ast.Name) and called.func.id in collected and not called.args and not called.keywords
    )


def _prints(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and name_of(node.value.func) == "print"


# ---- what is refused


def refuse_unusable(tree: ast.Module, where: str) -> None:
    """What is wrong wherever it is in the tests.

    Raises:
        UnusableTests: An assertion that always holds, a fixture, a skipped test, or a look at the program's output.
    """
    for node in walk(tree):
        place = f"{where}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant) and always_true(node.test):
            said = ast.unparse(node)[:100]
            is_tuple = isinstance(node.test, ast.Tuple)
            raise UnusableTests(
                f"{place}: `{said}` always holds" + (": a tuple is true, whatever is in it" if is_tuple else ""),
                "remove the parentheses: assert x, message"
                if is_tuple
                else "compare with what the program has to return",
            )
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            _refuse_decorators(node, place)
        _refuse_name(node, place)


def _refuse_decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, place: str) -> None:
    for decorator in node.decorator_list:
        name = name_of(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if name == "fixture":
            raise UnusableTests(
                f"{place}: `{node.name}` is a fixture, which only pytest runs",
                "make it a plain function that the tests call",
            )
        if isinstance(node, ast.ClassDef) and name == "parametrize":
            raise UnusableTests(f"{place}: parametrize of the class `{node.name}`", "give it to each of its methods")
    if node.name in _UNSUPPORTED_HOOKS:
        raise UnusableTests(f"{place}: `{node.name}` is not run", "call it in the tests, or use setUp and tearDown")


def _refuse_name(node: ast.AST, place: str) -> None:
    names: list[str] = []
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("contextlib", "unittest", "pytest"):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in _OWNERS:
        names = [node.attr]
    for name in names:
        if name in _SKIPS:
            raise UnusableTests(
                f"{place}: `{name}`: a test that is skipped checks nothing", "remove the test, or run it"
            )
        if name in _OUT_OF_REACH:
            raise UnusableTests(
                f"{place}: `{name}` does not reach {_OUT_OF_REACH[name]}, which is in a process of its own", _STDIO
            )
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target) in _STREAMS:
                raise UnusableTests(
                    f"{place}: `{ast.unparse(target)}` is replaced, but the program runs in a process of its own",
                    _STDIO,
                )


def refuse_coroutines_of_the_program(tree: ast.Module, where: str, names: set[str]) -> None:
    """A coroutine of the program cannot be awaited from another process.

    Args:
        names: Those of the program.

    Raises:
        UnusableTests: The tests await one, or have it run.
    """
    for node in walk(tree):
        waited: list[ast.expr] = []
        if isinstance(node, ast.Await):
            waited = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_asyncio = isinstance(node.func.value, ast.Name) and node.func.value.id == "asyncio"
            waited = list(node.args) if is_asyncio or node.func.attr == "run_until_complete" else []
        for each in waited:
            called = name_of(each.func) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) else None
            if called in names:
                raise UnusableTests(
                    f"{where}, line {each.lineno}: `{called}` is awaited, but the program runs in a process of its own",
                    "ask for a plain function, which may run its coroutines itself",
                )


def refuse_classes_of_the_program(tree: ast.Module, where: str, names: set[str]) -> None:
    """What stands for a class of the program in the tests is an object that is not a class.

    Args:
        names: Those of the program.

    Raises:
        UnusableTests: The tests want to catch one, or to know whether something is an instance of one.
    """
    for node in walk(tree):
        used: list[ast.expr | None] = []
        if isinstance(node, ast.ExceptHandler):
            used = [node.type]
        elif isinstance(node, ast.Call) and name_of(node.func) in _CATCHES:
            used = list(node.args[:1])
        elif isinstance(node, ast.Call) and name_of(node.func) in _TELLS_CLASSES:
            used = list(node.args[1:2])
        parts = [part for each in used for part in (each.elts if isinstance(each, ast.Tuple) else [each])]
        for part in parts:
            if isinstance(part, ast.Name) and part.id in names:
                raise UnusableTests(
                    f"{where}, line {part.lineno}: the class `{part.id}` of the program cannot be used there, because"
                    " the program runs in a process of its own",
                    "catch the builtin exception that it derives from, and compare attributes of objects",
                )


def refuse_objects_of_the_tests(tree: ast.Module, where: str, makers: set[str], names: set[str]) -> None:
    """An object with methods and globals of the tests would be a way to the tests, so none reaches the program.

    Args:
        makers: See `makers_of_objects`.
        names: Those of the program.

    Raises:
        UnusableTests: The tests call a function of the program with such an object, whatever the program is.
    """
    values: dict[str, list[ast.expr]] = {}
    for assigned in [each for each in walk(tree) if isinstance(each, ast.Assign)]:
        for target in assigned.targets:
            if isinstance(target, ast.Name):
                values.setdefault(target.id, []).append(assigned.value)
    held = {name for name, given in values.items() if all(_makes(value, makers) for value in given)}
    for call in walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in names:
            continue
        for given in (*call.args, *(keyword.value for keyword in call.keywords)):
            if _makes(given, makers) or (isinstance(given, ast.Name) and given.id in held):
                raise UnusableTests(
                    f"{where}, line {given.lineno}: `{call.func.id}` is given `{ast.unparse(given)[:80]}`, an object of"
                    " a class that the tests define, but the program runs in a process of its own",
                    "pass plain values, such as a list in place of a linked list; if the program defines the class,"
                    " leave it out of the tests",
                )


def makers_of_objects(tree: ast.Module) -> set[str]:
    """Classes whose objects are no plain values (they derive from nothing else, and are no functions), and functions
    that return a new object of one."""
    found: set[str] = set()
    for each in walk(tree):
        if isinstance(each, ast.ClassDef):
            methods = {part.name for part in each.body if isinstance(part, ast.FunctionDef)}
            if {name_of(base) for base in each.bases} <= found | {"object"} and "__call__" not in methods:
                found.add(each.name)
    for function in [each for each in walk(tree) if isinstance(each, ast.FunctionDef)]:
        returned = [each.value for each in walk(function) if isinstance(each, ast.Return)]
        if any(_makes(value, found) for value in returned):
            found.add(function.name)
    return found


def _makes(value: ast.expr | None, makers: set[str]) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in makers
