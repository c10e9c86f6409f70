"""The process of one tracker: `python -m halo_forge.runtime.tracker_process`, started by `runtime/tracking.py`.

Whatever a tracker's package does there, it does not do to the run: it may raise, hang, print, capture standard output,
or end the process.  The two talk in lines of JSON, one request on standard input and one reply for each:

- the first request opens the tracker: the fields of `Opening`;
- `{"position": [...], "values": {...}, "axis": ..., "step": ...}` reports a point, and with `"columns"` and `"rows"` in
  place of `"values"` a table;
- `{"ending": ...}` says how the attempt ended; end of input without it means that the run was killed.

`state.json` in the tracker's folder holds the position of the last request that was passed on.  Requests up to there
are skipped, so a resumed run may report everything again, and no point is there twice.  The state is written before
the tracker is called: a kill of this very process in between loses one point, and doubles none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

CYCLES, STEPS = "policy_version", "optimizer_step"
"""The two axes: policy versions, and optimizer steps counted over all cycles."""
SAMPLES = "samples"
"""The name of the table."""
CONFIG_CHARACTERS = 500
"""Longest value of a configuration key that is sent to MLflow."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}
"""Turns off what the packages tell their makers; variables that are set already stay."""


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    Attributes:
        folder: Of this tracker, in the run directory; for its state.
        limit_seconds: The process is ended if one call takes longer.
        project, group, name: Where the tracker shows the run.
        config: The resolved configuration.
    """

    tracker: str
    root: str
    folder: str
    limit_seconds: int
    project: str
    group: str | None
    name: str
    config: Mapping[str, Any]


class Adapter(Protocol):
    """One tracker.  Its class is called with (opening, id of the tracker's run, whether it has been reported to)."""

    def log(self, values: Mapping[str, float], axis: str, step: int, number: int) -> None:
        """Values at one step of an axis; `number` counts the calls of both methods over all attempts."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], version: int, number: int) -> None:
        """Rows about one policy version; texts in them come from the model."""
        ...

    def close(self, ending: str) -> None:
        """`ending` is "finished", "interrupted", "failed" or "killed"."""
        ...


class _TensorBoard:
    """Event files in the run directory, so arms and seeds of an experiment are sub-directories of its folder."""

    def __init__(self, opening: Opening, run_id: str, resumed: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(opening.root) / "tensorboard"))
        if not resumed:
            self._text("configuration", json.dumps(opening.config, indent=2), 0)

    def log(self, values: Mapping[str, float], axis: str, step: int, number: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], version: int, number: int) -> None:
        shown = [
            "\n".join(f"{column}: {value}" for column, value in zip(columns[:-1], row[:-1], strict=True))
            + f"\n{columns[-1]}:\n{row[-1]}\n"
            for row in rows
        ]
        self._text(SAMPLES, "\n".join(shown), version)

    def close(self, ending: str) -> None:
        self._writer.close()

    def _text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, as_markdown_code(text), step)
        self._writer.flush()


def _check_writable(folder: str | Path) -> None:
    """Make the folder if it is not there.

    Raises:
        OSError: It cannot be made, or nothing can be written there.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def as_markdown_code(text: str) -> str:
    """Text that TensorBoard, which renders Markdown, shows as it is: no line of an indented block can end the block."""
    return "".join(f"    {line}\n" for line in text.splitlines())


class _Wandb:
    def __init__(self, opening: Opening, run_id: str, resumed: bool) -> None:
        import wandb

        # wandb would take the system's temporary folder, and say so in its own log only.
        folder = os.environ.get("WANDB_DIR", opening.root)
        _check_writable(folder)
        self._wandb = wandb
        self._run = wandb.init(
            project=opening.project,
            group=opening.group,
            name=opening.name,
            id=run_id,
            resume="allow",
            dir=folder,
            config=dict(opening.config),
            settings=wandb.Settings(console="off"),
        )
        self._defined: set[str] = set()

    def log(self, values: Mapping[str, float], axis: str, step: int, number: int) -> None:
        for name in [name for name in values if name not in self._defined]:
            self._defined.add(name)
            self._run.define_metric(name, step_metric=axis)
        # The step of wandb must grow from call to call, whatever the axis.
        self._run.log({axis: step, **values}, step=number)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], version: int, number: int) -> None:
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({CYCLES: version, SAMPLES: table}, step=number)

    def close(self, ending: str) -> None:
        self._run.finish(exit_code=0 if ending == "finished" else 1)


_DROPPED = re.compile("could not be persisted|could be lost|may be dropped|skipped metric|failed to process")
"""In a warning of Trackio: it goes on without what it was given."""


class _Trackio:
    def __init__(self, opening: Opening, run_id: str, resumed: bool) -> None:
        import trackio
        from trackio.utils import TRACKIO_DIR

        self._trackio = trackio
        # What Trackio cannot store it drops, and says so only in a warning, from a thread of its own.
        self._failure: str | None = None
        warnings.filterwarnings("always", message="trackio ")
        warnings.showwarning = self._heard
        _check_writable(TRACKIO_DIR)
        # Trackio knows a run by its name, and folders of two projects may have the same.
        self._run = trackio.init(
            project=opening.project,
            name=f"{opening.name}-{run_id[:8]}",
            group=opening.group,
            config=dict(opening.config),
            resume="allow",
            embed=False,
        )

    def log(self, values: Mapping[str, float], axis: str, step: int, number: int) -> None:
        self._run.log(dict(values), step=step)
        self._check()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], version: int, number: int) -> None:
        table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({SAMPLES: table}, step=version)
        self._check()

    def close(self, ending: str) -> None:
        self._run.finish()
        self._check()

    def _heard(self, message: Warning | str, *details: Any, **more: Any) -> None:
        sys.stderr.write(f"warning: {message}\n")
        if _DROPPED.search(str(message)):
            self._failure = str(message)

    def _check(self) -> None:
        if self._failure is not None:
            raise OSError(self._failure)


class _MLflow:
    def __init__(self, opening: Opening, run_id: str, resumed: bool) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", Path("mlruns").absolute().as_uri())
        # Files, which a path names as well, are refused by default since MLflow 3.7, which recommends a database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from mlflow.entities import Param

        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient(uri)
        experiment = mlflow.set_experiment(opening.project).experiment_id
        found = self._client.search_runs([experiment], f"tags.`halo_forge.id` = '{run_id}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {"halo_forge.id": run_id, "run_directory": opening.root}
        tags |= {} if opening.group is None else {"group": opening.group}
        self._run = self._client.create_run(experiment, run_name=opening.name, tags=tags).info.run_id
        params = [Param(_mlflow_name(key), value[:CONFIG_CHARACTERS]) for key, value in _flat(opening.config)]
        for start in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(self._run, params=params[start : start + 100])

    def log(self, values: Mapping[str, float], axis: str, step: int, number: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, metrics=[Metric(_mlflow_name(name), value, now, step) for name, value in values.items()]
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], version: int, number: int) -> None:
        data = {column: [row[index] for row in rows] for index, column in enumerate(columns)}
        self._client.log_table(self._run, data, f"{SAMPLES}.json")  # adds to what is there

    def close(self, ending: str) -> None:
        endings = {"finished": "FINISHED", "failed": "FAILED"}
        self._client.set_terminated(self._run, endings.get(ending, "KILLED"))


def _mlflow_name(name: str) -> str:
    """MLflow allows letters, digits and `_-./ ` in a name."""
    return re.sub(r"[^\w\-./ ]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


ADAPTERS: Mapping[str, Any] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _MLflow,
}


class _State:
    """`state.json`: the id of the tracker's run, the position of the last request passed on, and their number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.run_id: str = stored.get("run_id", uuid.uuid4().hex)
        self.position: list[int] = stored.get("position", [])
        self.number: int = stored.get("number", 0)

    def move_to(self, position: list[int]) -> bool:
        """Whether the request at this position is a new one; it then counts as passed on."""
        if position <= self.position:
            return False
        self.position, self.number = position, self.number + 1
        self.write()
        return True

    def write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        row = {"run_id": self.run_id, "position": self.position, "number": self.number}
        temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)


def main() -> None:
    """Serve requests until the end of input."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what packages print belongs in the log

    def reply(**fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the run was killed; the end of input follows
            os.write(replies, json.dumps(fields).encode() + b"\n")

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        reply(error=f"{kind.__name__}: {error}")

    sys.excepthook = tell
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then says what its ending is
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    opening = Opening(**json.loads(sys.stdin.readline()))
    # An alarm without a handler ends this process whatever it is in, C code included.
    signal.alarm(opening.limit_seconds)
    folder = os.open(opening.folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # the process of a killed attempt may still be sending
    state = _State(Path(opening.folder) / "state.json")
    adapter: Adapter = ADAPTERS[opening.tracker](opening, state.run_id, bool(state.position))
    state.write()
    reply()
    signal.alarm(0)
    ending = "killed"
    for line in sys.stdin:
        signal.alarm(opening.limit_seconds)
        request = json.loads(line)
        if "ending" in request:
            ending = request["ending"]
            break
        if state.move_to(request["position"]):
            _pass_on(adapter, request, state.number)
        reply()
        signal.alarm(0)
    signal.alarm(opening.limit_seconds)  # for what packages do at exit, too
    adapter.close(ending)
    reply()


def _pass_on(adapter: Adapter, request: Mapping[str, Any], number: int) -> None:
    if "values" in request:
        adapter.log(request["values"], request["axis"], request["step"], number)
    else:
        adapter.table(request["columns"], request["rows"], request["step"], number)


if __name__ == "__main__":
    main()
