"""Hostile programs in Python."""

from __future__ import annotations

from hostile_programs import MARK, MEBIBYTE, Ending, Program

_LIMITS = {"memory_bytes": 96 * MEBIBYTE}


def _program(name: str, source: str, expected: tuple[Ending, ...], **more: object) -> Program:
    return Program(name, source, expected, "python", limits={**_LIMITS}, **more)  # type: ignore[arg-type]


PYTHON: tuple[Program, ...] = (
    # Its exit code is 0, and it is no pass: nothing of what a test expects has been printed.
    _program("python_exit_at_once", 'import os\nos._exit(0)\nprint("passed")\n', ("ok",), stdout=b""),
    _program(
        "python_recursion",
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self):\n"
        "        return repr(self)\nrepr(A())\n",
        ("exit", "memory", "SIGSEGV", "cpu"),
    ),
    _program(
        "python_memory", "a = []\nfor _ in range(3000): a.append(bytearray(b'x') * (1 << 20))\n", ("memory", "exit")
    ),
    _program("python_big_number", "print(10 ** 10 ** 9)\n", ("cpu", "memory", "exit")),
    _program(
        "python_remove_all",
        "import os, shutil\nshutil.rmtree(os.environ['CANARY'], ignore_errors=True)\n"
        "shutil.rmtree('/tmp', ignore_errors=True)\nshutil.rmtree('/', ignore_errors=True)\n",
        ("ok", "exit", "cpu", "wall"),
        needs="isolation",
        destructive=True,
    ),
    _program(
        "python_fork",
        "import os, time\nfor _ in range(12):\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
        "time.sleep(9)\n",
        ("processes", "memory", "cpu", "wall"),
    ),
    _program("python_segv", "import ctypes\nctypes.string_at(0)\n", ("SIGSEGV",)),
    _program(
        "python_signals",
        "import signal, os\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass\n",
        ("cpu",),
    ),
    _program(
        "python_start_up_files",
        "import os, site\n"
        "for top in site.getusersitepackages(), '/usr/lib/python3/dist-packages', '/usr/local/lib':\n"
        "    try:\n        os.makedirs(top, exist_ok=True)\n"
        f"        open(os.path.join(top, '{MARK}.pth'), 'w').write('import os')\n"
        "    except OSError:\n        pass\n",
        ("ok", "exit"),
        needs="own user",
        destructive=True,
    ),
)
