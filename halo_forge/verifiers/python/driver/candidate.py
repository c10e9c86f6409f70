"""The program's process: runs the program and calls its functions, on request.

Nothing in here is a secret, and nothing in here is trusted: the program may change all of it, and can thereby change
only which plain values it sends.
"""

from __future__ import annotations

import builtins
import sys

from halo_forge.verifiers.python.driver import wire

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

FILE_NAME = "answer.py"
MODULE_NAME = "answer"
_ONLY_SYNTAX_TREE = 0x400
_SHOWN = 300
# Arguments of these types are sent back when the program has changed them.
_MUTABLE = ("list", "dict", "set", "bytearray", "deque", "ndarray")


def missing(entry_point: str) -> str:
    """What is said of a program that lacks its entry point."""
    return f"the program does not define the function `{entry_point}`"


def describe(error: BaseException) -> str:
    """Type, message and line of an exception; never an address or a path."""
    message = _text(error)
    line = None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE_NAME else line
        trace = trace.tb_next
    where = "" if line is None else f" (line {line})"
    return f"{type(error).__name__}{': ' if message else ''}{message[:_SHOWN]}{where}"


def parse(source: str, head: str, entry_point: str | None) -> tuple[Any, int, str, bool]:
    """Compile a program without running any of it.

    A program that begins indented continues `head`, the opening of its function, and is compiled together with it.

    Returns:
        The code, None where it does not compile; the number of warnings; what is wrong; whether `head` is part of it.
    """
    first = next((line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    continues = head != "" and first[:1] in (" ", "\t")
    try:
        code, tree, num_warnings = _compiled(head + source if continues else source)
    except SyntaxError as error:
        return None, 0, f"{FILE_NAME}:{error.lineno}: {type(error).__name__}: {error.msg}", continues
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return None, 0, describe(error), continues
    if entry_point is not None:
        bound = set(_bound(tree.body))
        if entry_point not in bound and "*" not in bound:
            return None, num_warnings, missing(entry_point), continues
    return code, num_warnings, "", continues


def _compiled(text: str) -> tuple[Any, Any, int]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = compile(text, FILE_NAME, "exec", _ONLY_SYNTAX_TREE, dont_inherit=True)
        code = compile(text, FILE_NAME, "exec", dont_inherit=True)
    # Both compilations warn of the same escapes.
    return code, tree, len({(str(each.message), each.lineno) for each in caught})


def _bound(body: list[Any]) -> Iterator[str]:
    """The names that statements of a module bind, "*" for an import of everything."""
    for node in body:
        kind = type(node).__name__
        if kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
            yield node.name
        elif kind in ("Import", "ImportFrom"):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif kind == "Assign":
            for target in node.targets:
                yield from _targets(target)
        elif kind in ("AnnAssign", "For"):
            yield from _targets(node.target)
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            if kind not in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
                yield from _bound(getattr(node, field, []))


def _targets(target: Any) -> Iterator[str]:
    if type(target).__name__ == "Name":
        yield target.id
    for item in getattr(target, "elts", []):
        yield from _targets(item)


class Server:
    """Answers requests; `objects` are those of the program that the other side knows by number."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._objects: list[Any] = []
        self._names: dict[str, Any] = {}
        self._code: Any = None

    def serve(self) -> None:
        """Until the other side hangs up (EOFError, OSError)."""
        while True:
            self._reply(self._receive())

    def _receive(self) -> Any:
        return wire.decode(wire.receive(self._reader), self._from_wire)

    def _to_wire(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, Callback):
            return ("yours", value.number)
        self._objects.append(value)
        return ("mine", len(self._objects) - 1, type(value).__name__)

    def _from_wire(self, plain: tuple[Any, ...]) -> Any:
        return self._objects[plain[1]] if plain[0] == "yours" else Callback(self, plain[1])

    def _reply(self, request: tuple[Any, ...]) -> None:
        try:
            content = self._encoded(getattr(self, "_" + request[0])(*request[1:]))
        except BaseException as error:  # noqa: BLE001 -- whatever the program raises is its result
            content = self._encoded(_failure(error))
        wire.send(self._writer, content)

    def _encoded(self, message: tuple[Any, ...]) -> bytes:
        return wire.encode(message, self._to_wire)

    def _parse(self, source: str, head: str, entry_point: str | None) -> tuple[Any, ...]:
        self._code, *said = parse(source, head, entry_point)
        return ("value", (self._code is not None, *said))

    def _run(self, head: str, entry_point: str | None) -> tuple[Any, ...]:
        # Programs end themselves by these two, which the module `site` would provide.
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
        module = type(sys)(MODULE_NAME)
        sys.modules[MODULE_NAME] = module
        self._names = module.__dict__
        self._names["__file__"] = FILE_NAME
        try:
            if head:
                exec(compile(head, "head.py", "exec", dont_inherit=True), self._names)
            exec(self._code, self._names)
        except BaseException as error:  # noqa: BLE001 -- whatever the program raises is its result
            return ("value", (False, describe(error)))
        if entry_point is not None and not callable(self._names.get(entry_point)):
            return ("value", (False, missing(entry_point)))
        return ("value", (True, ""))

    def _names_of(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        return ("value", ({name: self._names[name] for name in names if name in self._names},))

    def _call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        places: list[tuple[Any, Any]] = [*enumerate(args), *kwargs.items()]
        given = [(place, value, self._text(value)) for place, value in places if type(value).__name__ in _MUTABLE]
        result = function(*args, **kwargs)
        changed = [(place, value) for place, value, before in given if self._text(value) != before]
        return ("value", result, changed) if changed else ("value", result)

    def _text(self, value: Any) -> bytes:
        # Objects are no part of what is compared: each time they are sent they get another number.
        return wire.encode(value, id)

    def _attribute(self, value: Any, name: str) -> tuple[Any, ...]:
        return ("value", getattr(value, name))

    def _assign(self, value: Any, name: str, content: Any) -> tuple[Any, ...]:
        setattr(value, name, content)
        return ("value", None)

    def _item(self, value: Any, key: Any) -> tuple[Any, ...]:
        return ("value", value[key])

    def _put_item(self, value: Any, key: Any, content: Any) -> tuple[Any, ...]:
        value[key] = content
        return ("value", None)

    def _builtin(self, name: str, value: Any) -> tuple[Any, ...]:
        functions: dict[str, Callable[[Any], Any]] = {"len": len, "str": str, "bool": bool, "iter": iter}
        return ("value", functions[name](value))

    def _next(self, value: Any) -> tuple[Any, ...]:
        for item in value:
            return ("value", (item,))
        return ("value", ())

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function that the tests gave to the program."""
        wire.send(self._writer, self._encoded(("back", number, args, kwargs)))
        while True:
            reply = self._receive()
            if reply[0] == "value":
                return reply[1]
            if reply[0] == "error":
                raise getattr(builtins, reply[1][0], RuntimeError)(reply[2])
            self._reply(reply)


def _failure(error: BaseException) -> tuple[Any, ...]:
    """The names of its class and base classes, its message, and a description."""
    return ("error", [each.__name__ for each in type(error).__mro__], message_of(error), describe(error))


def message_of(error: BaseException) -> str:
    """The text that an exception of the same type is made with."""
    args = error.args
    return args[0] if len(args) == 1 and type(args[0]) is str else _text(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 -- the program's own exception class may raise whatever it likes
        return ""


class Callback:
    """A function of the tests' own, in the program's process."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self.number = number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.call_back(self.number, args, kwargs)


def parse_job() -> None:
    """Parse the program of the job in standard input's place, the file `job`; what is found is printed as a message."""
    with open("job", "rb") as handle:
        job = wire.decode(handle.read(), id)
    code, *said = parse(job["source"], job["head"], job["entry_point"])
    wire.send(1, wire.encode((code is not None, *said), id))
