"""The hack flag `trivial_program`: is anything left of a program once it is optimised?

The compiler has already folded constants and removed dead code, so its machine code is read: a function is trivial if
it only loads constants and then returns, runs forever, or ends the program.  For Python the syntax tree is read.
Whatever this cannot decide is not trivial: a miss costs little, a false flag would drop an honest sample.
"""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import accumulate

from halo_forge.core.source import KEYWORDS, Function, outline
from halo_forge.verifiers.compiled.elf import CompiledFunction

# The instructions of a trivial function: it loads constants into registers, then it ends.  `result` matches those that
# load the register in which a single value is returned.
_X86_64 = re.compile(
    rb"(?:\xf3\x0f\x1e\xfa)?"  # endbr64
    rb"(?:\x50|\x48\x83\xec.)?"  # push rax; sub rsp, n: alignment before a call
    rb"(?:(?P<result>\x48?[\x31\x33]\xc0|\xb8.{4}|\xb0."  # xor eax, eax; mov eax, n; mov al, n
    rb"|\x48(?:\xb8.{8}|\xc7\xc0.{4}|\x8d\x05.{4})"  # mov rax, n; lea rax, [rip + n]
    rb"|\x66?\x0f[\x57\xef]\xc0|[\xf2\xf3]\x0f\x10\x05(?P<loaded>.{4}))"  # xorps xmm0, xmm0; movsd xmm0, [rip + n]
    rb"|[\x45\x48\x4d]?[\x31\x33][\xc0\xc9\xd2\xdb\xed\xf6\xff]"  # the same for other registers
    rb"|\x41?[\xb8-\xbf].{4}|[\x48\x49](?:[\xb8-\xbf].{8}|\xc7[\xc0-\xc7].{4})"
    rb"|[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x2d\x35\x3d].{4}"
    rb"|\x31\xdb\x48\x89\xd9)*"  # xor ebx, ebx; mov rcx, rbx: length and capacity of an empty slice in Go
    rb"(?:(?P<returns>\xc3)|\x0f\x0b|\xeb\xfe|\x90\xeb\xfd"  # ret; ud2; a jump to itself
    rb"|(?:\xe8|\xff\x15)(?P<called>.{4})(?:\x0f\x0b)?)",  # a call after which nothing comes
    re.DOTALL,
)
_AARCH64 = re.compile(
    rb"(?:[\x3f\x5f\xbf][\x23\x24]\x03\xd5)?"  # paciasp, bti c, autiasp
    rb"(?:(?P<result>[\x00\x20\x40\x60\x80\xa0\xc0\xe0].[\x80-\xff][\x12\x52\x92\xd2]"  # mov x0, n
    rb"|\xe0\x03(?:\x1f[\x2a\xaa]|\x27\x1e|\x67\x9e)|\x00\xe4\x00\x2f"  # mov x0, xzr; fmov d0, xzr; movi d0, 0
    rb"|\x00[\x10\x30\x50\x70\x90\xb0\xd0\xf0][\x20-\x3f\x60-\x7f]\x1e)"  # fmov d0, n
    rb"|..[\x80-\xff][\x12\x52\x92\xd2]|[\xe0-\xff]\x03\x1f[\x2a\xaa])*"  # the same for other registers
    rb"(?:(?P<returns>\xc0\x03\x5f\xd6)|\x00\x00\x00\x14)",  # ret; a jump to itself
    re.DOTALL,
)
_INSTRUCTIONS = {62: _X86_64, 183: _AARCH64}
# Where compilers keep floating-point constants; anything else may be a variable.
_CONSTANT = re.compile(r"\.rodata.*|\.LC.*|\$f\d\d\..*")
_ENDS_THE_PROGRAM = re.compile(
    r"_?exit|_Exit|quick_exit|abort|__assert_fail|_R\w*3std7process(?:4exit|5abort)\w*|_R\w*4core9panicking\w*"
)
_NOTHING = frozenset(("void", "static", "inline", "extern"))
# The words of result types that fit into one register.
_ONE_REGISTER = frozenset(
    "void int long short char unsigned signed float double bool _Bool size_t ssize_t ptrdiff_t const * static inline"
    " extern int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t i8 i16 i32 i64 isize u8 u16 u32 u64"
    " usize f32 f64 int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 byte rune float32 float64 - > ->".split()
)
# Words of result types that may be closures, the values that are literals, and tokens that are no value.
_CLOSURES = frozenset(("func", "impl", "dyn", "Fn", "fn", "auto", "decltype"))
_LITERALS = frozenset(("true", "false", "True", "False", "NULL", "nullptr", "nil", "None"))
_PUNCTUATION = re.compile(r"\W*")
C_LIKE = frozenset(("c", "cpp", "rust", "go"))
_MOST_FUNCTIONS = 50
_NO_FILE = "<answer>"
_LONGEST_PYTHON = 20_000
_Definition = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = ast.Module | _Definition | ast.Lambda
# Nodes with effects that others may see.
_ACTING = (
    ast.Yield | ast.YieldFrom | ast.Await | ast.Global | ast.Nonlocal | ast.Delete | ast.AugAssign | ast.For
    | ast.AsyncFor | ast.comprehension | ast.With | ast.AsyncWith | ast.ClassDef
)  # fmt: skip
# Nodes that bind their `name`.
_NAMING = ast.FunctionDef | ast.AsyncFunctionDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_IN_CONSTANTS = (
    ast.Constant | ast.UnaryOp | ast.BinOp | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.unaryop | ast.operator
    | ast.expr_context
)  # fmt: skip
_EXITS = frozenset(("exit", "quit", "sys.exit", "os._exit"))


def compiled_does_nothing(
    code: str, language: str, entry_point: str | None, compiled: Callable[[str], Sequence[CompiledFunction]]
) -> bool:
    """Whether a program in C, C++, Rust or Go does nothing; False for other languages.

    Checks the function `entry_point`, or else `main` and the functions that it names, or else every function that the
    program defines.  A program that defines no function does nothing.

    Args:
        compiled: Maps a name in the source to its compiled functions; empty if they are unknown.
    """
    if language not in C_LIKE:
        return False
    found = outline(code, language)
    names = {each.name for each in found.functions}
    if entry_point is not None:
        names = {entry_point}
    elif not names:
        return not found.macros and not any("(" in statement for statement in found.loose)
    elif "main" in names:
        # One that only tries another function, or a macro, is optimised away.
        tried = {"main", *(token for each in found.functions if each.name == "main" for token in each.body)}
        if found.macros.keys() & tried or "macro_rules" in code:
            return False
        names &= tried
    written = {name: [each for each in found.functions if each.name == name] for name in names}
    return len(names) <= _MOST_FUNCTIONS and all(
        written[name] and made and all(_only_constants(each, written[name], language, found.macros) for each in made)
        for name, made in ((name, compiled(name)) for name in names)
    )


def _only_constants(made: CompiledFunction, written: Sequence[Function], language: str, macros: Sized) -> bool:
    """Whether a compiled function does nothing for any arguments; `written` are the definitions it may come from."""
    instructions = _INSTRUCTIONS.get(made.machine)
    found = None if instructions is None else instructions.fullmatch(made.code)
    if found is None:
        return False
    operands = found.groupdict()
    for operand, allowed in (("loaded", _CONSTANT), ("called", _ENDS_THE_PROGRAM)):
        if operands.get(operand) is not None:
            name = made.refers_to(found.start(operand))
            if name is None or allowed.fullmatch(name) is None:
                return False
    if found["returns"] is None:
        return True  # it never returns
    return all(
        _returns_no_argument(each, language, found["result"] is not None, macros)
        and not _computes_constant(each, language)
        for each in written
    )


def _computes_constant(function: Function, language: str) -> bool:
    """Whether a constant result may be what was asked for.

    The result of a function without parameters, such as a sum, an iterator or a reference to a variable, is always the
    same, and so is a closure that captures nothing.  A single literal is trivial all the same.
    """
    if function.name == "main":
        return False
    header = list(function.header)
    start = header.index(function.name)
    end = _end_of_parameters(header, start)
    result = {*header[end + 1 :], *header[:start]} if language == "cpp" else set(_result(header, start, language))
    parameters = [token for token in header[start + 1 : end] if token not in ("(", ")", "void")]
    if result <= _NOTHING or (parameters and result.isdisjoint(_CLOSURES)):
        return False
    values = [token for token in function.body if token != "return" and not _PUNCTUATION.fullmatch(token)]
    return len(values) > 1 or any(token.isidentifier() and token not in _LITERALS for token in values)


def _end_of_parameters(header: Sequence[str], start: int) -> int:
    """Where the parentheses close that come first after the name; the header's length if they do not."""
    depths = accumulate((token == "(") - (token == ")") for token in header[start:])
    return next((at for at, depth in enumerate(depths, start) if depth == 0 and header[at] == ")"), len(header))


def _result(header: Sequence[str], start: int, language: str) -> Sequence[str]:
    """The words of the type of the result."""
    return header[_end_of_parameters(header, start) + 1 :] if language in ("rust", "go") else header[:start]


def _returns_no_argument(function: Function, language: str, sets_result: bool, macros: Sized) -> bool:
    """Whether the result cannot be an argument that was left where it arrived.

    Some registers carry arguments as well as results: `double f(double x) { return x; }` is a mere return.
    """
    header = list(function.header)
    start = header.index(function.name)
    result = set(_result(header, start, language))
    if result <= _NOTHING or (sets_result and result <= _ONE_REGISTER):
        return True
    return not macros and (set(header[start + 1 :]) - KEYWORDS).isdisjoint(
        token for token in function.body if token.isidentifier()
    )


def python_does_nothing(code: str, entry_point: str | None) -> bool:
    """Whether the function `entry_point` of a Python program does nothing, or all of the program if it defines none.

    A function does nothing if it returns the same constant on every path, calls nothing, loops over nothing, and
    modifies nothing that others see.
    """
    if len(code) > _LONGEST_PYTHON:
        return False
    if code.strip("\n")[:1] in (" ", "\t"):
        code = f"def {entry_point}():\n{code}"  # it continues the prompt's `def` line
    try:
        return _tree_does_nothing(_parsed(code), entry_point)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # not a program, or nested too deeply to be trivial


def _parsed(code: str) -> ast.Module:
    _say_nothing_about_answers()
    return ast.parse(code, _NO_FILE)


@functools.cache
def _say_nothing_about_answers() -> None:
    """Python warns about the code it parses, such as invalid escape sequences; an answer's are none of our output."""
    warnings.filterwarnings("ignore", module=re.escape(_NO_FILE))


def _tree_does_nothing(tree: ast.Module, entry_point: str | None) -> bool:
    named = [statement for statement in tree.body if entry_point is not None and _binds(statement, entry_point)]
    if any(not isinstance(statement, _Definition | ast.Assign) for statement in named):
        return False
    roots: list[ast.AST] = [*named] or [tree]
    scopes = [each for root in roots for each in ast.walk(root) if isinstance(each, _Scope)]
    return bool(scopes) and not any(_acts(scope) for scope in scopes)


def _binds(statement: ast.stmt, name: str) -> bool:
    for node in ast.walk(statement):
        if isinstance(node, _Definition | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
    return False


def _acts(scope: _Scope) -> bool:
    if isinstance(scope, ast.Lambda):
        return not _is_constant(scope.body)
    if isinstance(scope, _Definition) and scope.decorator_list:
        return True
    statements = list(_reached(scope.body))
    nodes = [node for statement in statements for node in _own_nodes(statement)]
    known = {} if isinstance(scope, ast.Module) else _known_names(nodes, scope.args)
    no_parameters = isinstance(scope, _Definition) and not any(
        isinstance(each, ast.arg) for each in ast.walk(scope.args)
    )
    outcomes = {"None"} if not statements or not _leaves(statements[-1]) else set()
    for node in nodes:
        if isinstance(node, _ACTING) or (isinstance(node, ast.Call) and not _is_idle(node)):
            return True
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.Raise | ast.Assert):
            outcomes.add(ast.unparse(node))
        if isinstance(node, ast.Return):
            value = ast.Constant(None) if node.value is None else node.value
            value = known.get(value.id, value) if isinstance(value, ast.Name) else value
            if not _is_constant(value) or (
                no_parameters and any(isinstance(each, ast.BinOp) for each in ast.walk(value))
            ):
                return True
            outcomes.add(ast.unparse(value))
    return len(outcomes) > 1


def _reached(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements up to the first that leaves, without the bodies of `if False:`."""
    for statement in body:
        if isinstance(statement, ast.If) and isinstance(statement.test, ast.Constant) and not statement.test.value:
            yield from _reached(statement.orelse)
            continue
        yield statement
        if _leaves(statement):
            return


def _leaves(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    exits = isinstance(call, ast.Call) and ast.unparse(call.func) in _EXITS
    return exits or isinstance(statement, ast.Return | ast.Raise)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and its parts, except the bodies of functions and the call that makes what is raised."""
    yield node
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        for argument in [*node.exc.args, *node.exc.keywords]:
            yield from _own_nodes(argument)
    elif not isinstance(node, _Definition | ast.Lambda | ast.Raise):
        for child in ast.iter_child_nodes(node):
            yield from _own_nodes(child)


def _known_names(nodes: Sequence[ast.AST], parameters: ast.arguments) -> dict[str, ast.expr]:
    """The local variables that are set once, to a constant."""
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    stored += [node.arg for node in ast.walk(parameters) if isinstance(node, ast.arg)]
    stored += [node.name for node in nodes if isinstance(node, _NAMING) and node.name is not None]
    stored += [node.rest for node in nodes if isinstance(node, ast.MatchMapping) and node.rest is not None]
    stored += [node.asname or node.name for node in nodes if isinstance(node, ast.alias)]
    times = Counter(stored)
    return {
        node.targets[0].id: node.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_constant(node.value)
        if times[node.targets[0].id] == 1
    }


def _is_constant(value: ast.expr) -> bool:
    return all(isinstance(node, _IN_CONSTANTS) for node in ast.walk(value))


def _is_idle(call: ast.Call) -> bool:
    """Whether a call exits with a fixed code, or prints only white space."""
    name = ast.unparse(call.func)
    texts = [argument.value if isinstance(argument, ast.Constant) else argument for argument in call.args]
    blank = not call.keywords and all(isinstance(text, str) and not text.strip() for text in texts)
    exits = name in _EXITS and not call.keywords and all(text is None or isinstance(text, int) for text in texts)
    return exits or (name == "print" and blank)
