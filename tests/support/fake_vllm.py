"""What the interpreter of a vLLM environment does, as far as a run sees it; see `interpreter`.

Its server writes down what it was started with and asked (`calls`), and leaves a process of its own behind, as vLLM's
engine does when its server is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from openai_stand_in import Answer, StandIn, choice, stand_in


class FakeVllm(StandIn):
    """The server.

    Attributes:
        num_completions: It gives so many and leaves further requests without an answer; None for no limit.
    """

    def __init__(self, record: Path) -> None:
        super().__init__()
        self.record = record
        self.num_completions: int | None = None

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        write(self.record, {"path": path, "model": body.get("model", body.get("lora_name"))})
        if path in ("/sleep?level=1", "/wake_up"):
            return 200, {}
        answer = super().post(path, body)
        if self.num_completions is not None and len(self.bodies()) > self.num_completions:
            threading.Event().wait()
        return answer


def write(record: Path, row: dict[str, Any]) -> None:
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def calls(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def interpreter(
    folder: Path,
    *,
    version: str | None = "0.32.0",
    words: str = "",
    seconds: float = 0.0,
    first_completions: int | None = None,
) -> Path:
    """An executable file that takes the place of `python`.

    Args:
        version: Of the vllm that is installed; None where it is not.
        words: What the server dies of, if it does.
        seconds: It takes so long to start.
        first_completions: The first server gives so many and leaves further requests without an answer.
    """
    path = folder / "python"
    script = f"""#!{sys.executable}
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from fake_vllm import main
main({str(folder / "record.jsonl")!r}, {version!r}, {words!r}, {seconds!r}, {first_completions!r})
"""
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)
    return path


def main(record: str, version: str | None, words: str, seconds: float, first_completions: int | None) -> None:
    if sys.argv[1] == "-c":
        if version is None:
            sys.exit("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm")
        print(version)
        return
    _, module, serve, model, *options = sys.argv[1:]
    assert (module, serve) == ("vllm.entrypoints.cli.main", "serve")
    is_first = not Path(record).exists()
    engine = subprocess.Popen(["sleep", "300"], start_new_session=True)
    names = (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_SERVER_DEV_MODE",
        "PYTHONPATH",
        "PYTHONSAFEPATH",
        "VLLM_NO_USAGE_STATS",
    )
    environment = {name: os.environ.get(name) for name in names}
    write(
        Path(record),
        {"pids": [os.getpid(), engine.pid], "model": model, "options": options, "environment": environment},
    )
    time.sleep(seconds)
    if words:
        print("INFO without a limit it would run out of memory, so there is one", flush=True)
        print(f"INFO starting\n{words}", flush=True)
        sys.exit(1)
    state = FakeVllm(Path(record))
    state.num_completions = first_completions if is_first else None
    state.key = os.environ["VLLM_API_KEY"]
    state.loads_adapters = "--no-enable-lora" not in options
    state.base = options[options.index("--served-model-name") + 1]
    state.completion = lambda body: (200, choice("text", token_ids=[5, 6]))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with stand_in(state, int(options[options.index("--port") + 1])):
        signal.pause()
