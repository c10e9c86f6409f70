"""A cache in which equal work that is requested at the same time is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SingleFlight(Generic[Key, Value]):
    """Keeps every value that was made, for as long as the cache lives; failures are not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A value alone is a fifth of the size of a future that holds it, and a run keeps thousands.
        self._values: dict[Key, Value] = {}
        self._futures: dict[Key, Future[Value]] = {}

    def get(self, key: Key, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value of `key`, and whether this call made it.

        Raises whatever `make` raises, here and in every thread that waits for the same key.
        """
        with self._lock:
            if key in self._values:
                return self._values[key], False
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
        if mine:
            try:
                value = make()
            except BaseException as error:
                with self._lock:
                    del self._futures[key]
                future.set_exception(error)
                raise
            with self._lock:
                self._values[key] = value
                del self._futures[key]
            future.set_result(value)
        return future.result(), mine
