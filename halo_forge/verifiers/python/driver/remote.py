"""What the tests hold instead of the program's functions and objects, and the conversation behind it."""

from __future__ import annotations

import builtins

from halo_forge.verifiers.python.driver import wire
from halo_forge.verifiers.python.driver.candidate import message_of

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A program that raises one of these ends a loop over its results early, and the checks in the loop with it.
_ENDS_LOOPS = (StopIteration, StopAsyncIteration)


class CandidateGone(BaseException):
    """The program's process has ended, or does not speak the protocol any more; no test may catch that.

    Args:
        ended: It hung up, so that it has ended or is about to.
    """

    def __init__(self, ended: bool) -> None:
        super().__init__("it ended" if ended else "it does not speak the protocol")
        self.ended = ended


class AnswerError(Exception):
    """The program raised an exception that is not a builtin `Exception`."""


class Remote:
    """An object of the program: calls, attributes, items and iteration are carried out in its own process.

    There are no operators on purpose: they would hand what is expected to the program, which could say "equal" to it.
    """

    __slots__ = ("__link", "__name", "__number")

    def __init__(self, link: Link, number: int, name: str) -> None:
        object.__setattr__(self, "_Remote__link", link)
        object.__setattr__(self, "_Remote__number", number)
        object.__setattr__(self, "_Remote__name", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__link.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__link.ask("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__link.ask("assign", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.__link.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__link.ask("put_item", self, key, value)

    def __iter__(self) -> Any:
        return self.__link.ask("builtin", "iter", self)

    def __next__(self) -> Any:
        found = self.__link.ask("next", self)
        if not found:
            raise StopIteration
        return found[0]

    def __len__(self) -> Any:
        return self.__link.ask("builtin", "len", self)

    def __bool__(self) -> bool:
        return self.__link.ask("builtin", "bool", self) is True

    def __enter__(self) -> Any:
        return self.__link.call(self.__link.ask("attribute", self, "__enter__"), (), {})

    def __exit__(self, *raised: object) -> None:
        # The program never hears of a failed assertion, which it could swallow.
        self.__link.call(self.__link.ask("attribute", self, "__exit__"), (None, None, None), {})

    def __str__(self) -> Any:
        return self.__link.ask("builtin", "str", self)

    def __repr__(self) -> str:
        return f"<{self.__name} object>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Remote):
            raise TypeError("two objects of the program are not compared: compare their attributes or texts")
        return False

    def __hash__(self) -> int:
        number: int = self.__number
        return number

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an object of the program cannot be copied")

    @staticmethod
    def number_of(remote: Remote) -> int:
        """The number by which the program's process knows it."""
        number: int = remote.__number
        return number


class Link:
    """The conversation with the program's process.

    Attributes:
        last: What the program returned last.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._functions: list[Callable[..., Any]] = []
        self.last: Any = None

    def ask(self, *request: Any) -> Any:
        """The program's reply.

        Raises:
            CandidateGone: There is none.
            Exception: A builtin exception of the same name as the one that the program raised.
        """
        return self._exchange(request)[1]

    def call(self, function: Remote, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the program; arguments that it changes in place are changed here too."""
        reply = self._exchange(("call", function, args, kwargs))
        for place, new in reply[2] if len(reply) > 2 else ():
            old = kwargs.get(place) if type(place) is str else args[place]
            _change(old, new)
        self.last = reply[1]
        return reply[1]

    def _exchange(self, request: tuple[Any, ...]) -> Any:
        content = wire.encode(request, self._to_wire)
        try:
            wire.send(self._writer, content)
            while True:
                reply = wire.decode(wire.receive(self._reader), self._from_wire)
                if type(reply) is not tuple:
                    raise ValueError("no message")
                if reply[0] == "back":
                    wire.send(self._writer, wire.encode(self._call_back(*reply[1:]), self._to_wire))
                elif reply[0] == "error":
                    _, names, message, said = reply
                    failure = _exception([name for name in names if type(name) is str], _str(message))
                    failure.said_by_the_program = _str(said)  # type: ignore[attr-defined]
                    break
                elif reply[0] == "value":
                    return reply
        except (EOFError, OSError) as error:
            raise CandidateGone(ended=True) from error
        except (wire.WireError, TypeError, ValueError, LookupError, MemoryError) as error:
            raise CandidateGone(ended=False) from error
        raise failure

    def _to_wire(self, value: Any) -> tuple[Any, ...]:
        if type(value) is Remote:
            return ("yours", Remote.number_of(value))
        if not callable(value) or isinstance(value, type):
            # An object of the tests, with methods and globals, would be a way to the tests.
            raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the program")
        self._functions.append(value)
        return ("mine", len(self._functions) - 1)

    def _from_wire(self, plain: tuple[Any, ...]) -> Any:
        if plain[0] == "yours":
            return self._functions[plain[1]]
        _, number, name = plain
        if type(number) is not int or type(name) is not str:
            raise ValueError("no object")
        return Remote(self, number, name)

    def _call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Call a function of the tests for the program.

        Raises:
            ValueError, LookupError: No such call was possible: the program does not speak the protocol.
        """
        if (type(number), type(args), type(kwargs)) != (int, tuple, dict):
            raise ValueError("no call")
        function = self._functions[number]
        try:
            return ("value", function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- the tests' own function may raise anything, and the program sees it
            return ("error", [type(error).__name__], message_of(error))


def _change(old: Any, new: Any) -> None:
    if type(old) is not type(new):
        return
    if type(old) is list or type(old) is bytearray:
        old[:] = new
    elif type(old) is dict or type(old) is set:
        old.clear()
        old.update(new)
    elif type(old).__name__ == "deque":
        old.clear()
        old.extend(new)
    elif type(old).__name__ == "ndarray" and old.shape == new.shape:
        old[...] = new


def _str(value: Any) -> str:
    return value if type(value) is str else ""


def _exception(names: list[str], message: str) -> Exception:
    for name in names:
        kind = getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, _ENDS_LOOPS):
            continue
        try:
            return kind(message)
        except TypeError:
            continue  # it needs more than a message; a base class of it does not
    return AnswerError(message)
