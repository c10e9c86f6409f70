"""Runs the methods of test classes: those of `unittest.TestCase`, and plain ones as pytest runs them."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INSTANCE = "__test_case__"
"""The name by which a call finds the instance."""


class TestClasses:
    """Sets classes up and takes them down, and each of their tests with an instance of its own.

    Args:
        space: The globals of the tests.
        calls: The calls of all methods, in order, such as "TestStack.test_pop()"; a class is taken down after its last.
    """

    def __init__(self, space: dict[str, Any], calls: list[str]) -> None:
        self._space = space
        self._left = [call.partition(".")[0] for call in calls]
        self._failures: dict[str, Exception | None] = {}

    def run(self, call: str, execute: Callable[[str], None]) -> None:
        """Run one method.

        Args:
            execute: Executes a source in the globals of the tests.

        Raises:
            Exception: Whatever the test raises, or the preparation of its class or of itself.
        """
        owner, _, method = call.partition(".")
        kind = self._space[owner]
        self._left.remove(owner)
        is_case = _is_case(kind)
        try:
            self._set_up(owner, kind, is_case)
            instance = kind(method.partition("(")[0]) if is_case else kind()
            self._space[INSTANCE] = instance
            _with_hooks(instance, is_case, lambda: execute(f"{INSTANCE}.{method}"))
        finally:
            self._space.pop(INSTANCE, None)
            if owner not in self._left and self._failures[owner] is None:
                _call(kind, "tearDownClass" if is_case else "teardown_class")
                if is_case and hasattr(kind, "doClassCleanups"):
                    kind.doClassCleanups()

    def _set_up(self, owner: str, kind: Any, is_case: bool) -> None:
        if owner not in self._failures:
            self._failures[owner] = None
            try:
                _call(kind, "setUpClass" if is_case else "setup_class")
            except Exception as error:  # noqa: BLE001 -- it is the result of each test of the class
                self._failures[owner] = error
        failure = self._failures[owner]
        if failure is not None:
            raise failure


def _is_case(kind: Any) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and issubclass(kind, unittest.TestCase)


def _with_hooks(instance: Any, is_case: bool, test: Callable[[], None]) -> None:
    """Run a test between the methods that prepare it and clean up after it."""
    try:
        _call(instance, "setUp" if is_case else "setup_method")
        try:
            test()
        finally:
            _call(instance, "tearDown" if is_case else "teardown_method")
    finally:
        if is_case and not instance.doCleanups():
            raise AssertionError("a cleanup of the test failed")


def _call(owner: Any, name: str) -> None:
    """Call a method if there is one; pytest gives those that take an argument what they prepare."""
    hook = getattr(owner, name, None)
    if hook is not None:
        takes_more = getattr(hook, "__code__", None) is not None and hook.__code__.co_argcount > 1
        hook(owner) if takes_more else hook()
