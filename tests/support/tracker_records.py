"""What the real trackers have recorded, read back from their files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Point = tuple[int, float]
BLOCK_BYTES = 32768


def near(value: float) -> float:
    """The value to four digits: some trackers keep 32 bits."""
    return float(f"{value:.4g}")


@dataclass
class Recorded:
    """The runs of one tracker, merged: each point is there as often as it was recorded.

    Attributes:
        points: Metric -> (step on its axis, value), in the order of recording.
        config: Dotted key -> value; None where only a text was recorded.
        texts: Every text of the table of samples.
        place: Project and group that the tracker shows the run in; empty where it has none.
        names: One for each run that the tracker knows.
    """

    points: defaultdict[str, list[Point]] = field(default_factory=lambda: defaultdict(list))
    config: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    place: tuple[str, ...] = ()
    names: set[str] = field(default_factory=set)


def tensorboard(folder: Path) -> Recorded:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found, written = Recorded(names={"tensorboard"}), EventAccumulator(str(folder / "run/tensorboard"))
    written.Reload()
    for name in written.Tags()["scalars"]:
        found.points[name] = [(point.step, near(point.value)) for point in written.Scalars(name)]
    texts = {
        name: [event.tensor_proto.string_val[0].decode() for event in written.Tensors(f"{name}/text_summary")]
        for name in ("configuration", "samples")
        if f"{name}/text_summary" in written.Tags()["tensors"]
    }
    (configuration,) = texts["configuration"]
    found.config = _dotted(json.loads(configuration))
    found.texts = texts.get("samples", [])  # an SFT run has no table
    return found


def wandb(folder: Path) -> Recorded:
    from wandb.proto.wandb_internal_pb2 import Record

    found = Recorded()
    paths = sorted(folder.glob("run/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    for record in (Record.FromString(data) for path in paths for data in _log_records(path.read_bytes())):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.names.add(record.run.run_id)
            found.place = (record.run.project, record.run.run_group)
            found.config |= _dotted({each.key: json.loads(each.value_json) for each in record.run.config.update})
        elif kind == "history":
            # A key is one text where it is flat, and a list of parts where it was a dict.
            row = {(each.key or ".".join(each.nested_key)): json.loads(each.value_json) for each in record.history.item}
            step = row.get("optimizer_step", row.get("policy_version"))
            for name, value in row.items():
                if isinstance(value, int | float) and not name.startswith("_"):
                    found.points[name].append((step, near(value)))
    for path in sorted(folder.glob("run/wandb/offline-run-*/files/media/table/*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        found.texts += [row[table["columns"].index("text")] for row in table["data"]]
    return found


def _log_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def trackio(folder: Path) -> Recorded:
    import sqlite3

    found = Recorded()
    (path,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        logged = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        configs = database.execute("SELECT config FROM configs").fetchall()
    for row in logged:
        found.names.add(row["run_name"])
        for name, value in json.loads(row["metrics"]).items():
            if isinstance(value, dict):
                found.texts += [each["text"] for each in value["_value"]]
            else:
                found.points[name].append((row["step"], near(value)))
    (config,) = (json.loads(row["config"]) for row in configs)
    found.config, found.place = _dotted(config), (path.stem, config["_Group"])
    return found


def mlflow(folder: Path) -> Recorded:
    found = Recorded()
    for run in (path.parent for path in folder.glob("mlruns/*/*/params")):
        found.names.add(run.name)
        for path in (path for path in (run / "metrics").rglob("*") if path.is_file()):
            for line in path.read_text().splitlines():
                _, value, step = line.split()
                found.points[path.relative_to(run / "metrics").as_posix()].append((int(step), near(float(value))))
        found.config |= {path.name: path.read_text() for path in (run / "params").rglob("*") if path.is_file()}
        table = json.loads((run / "artifacts/samples.json").read_text())
        found.texts += [row[table["columns"].index("text")] for row in table["data"]]
        name = (run.parent / "meta.yaml").read_text().split("name: ")[1].split("\n")[0]
        found.place = (name, (run / "tags/group").read_text())
    return found


def _dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


READERS: dict[str, Callable[[Path], Recorded]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
    "mlflow": mlflow,
}
