"""Messages between the trainer and its launchers: a JSON header, then raw byte strings.

Standard library only: the launcher imports this.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("!I")


def send(connection: socket.socket, message: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Send one message with its byte strings.

    Raises:
        OSError: The other side is gone.
    """
    header = json.dumps({"blobs": [len(blob) for blob in blobs], "message": message}).encode()
    connection.sendall(b"".join([_LENGTH.pack(len(header)), header, *blobs]))


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """The next message and its byte strings.

    Raises:
        EOFError: The other side is gone.
        OSError: The connection broke, or its timeout passed (TimeoutError).
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    header = json.loads(_exactly(connection, length))
    return header["message"], [_exactly(connection, size) for size in header["blobs"]]


def _exactly(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        received = connection.recv_into(view)
        if received == 0:
            raise EOFError("the other side closed the connection")
        view = view[received:]
    return bytes(buffer)
