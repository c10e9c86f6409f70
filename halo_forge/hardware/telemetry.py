"""What the GPU needed while a cycle ran, from files of the kernel; nothing where they are not there.

AMD's driver shows power, temperature, load and memory without root.  A figure whose file is missing is absent.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from halo_forge.hardware.machine import Machine

INTERVAL_SECONDS = 1.0
_POWER = ("power1_average", "power1_input")
"""Microwatts; which of the two there is depends on the kernel."""
_FACTORS = {"watts": 1e-6, "celsius": 1e-3, "busy": 0.01, "gtt_bytes": 1.0}
_FIELDS = (
    ("gpu_power_watts_mean", "watts", statistics.fmean),
    ("gpu_power_watts_max", "watts", max),
    ("gpu_temperature_celsius_max", "celsius", max),
    ("gpu_busy_mean", "busy", statistics.fmean),
    ("gpu_memory_bytes_max", "gtt_bytes", max),
)


@dataclass(frozen=True)
class Sensors:
    """One AMD GPU's files.

    Attributes:
        machine: Whose files.
        paths: What is measured ("watts", "celsius", "busy", "gtt_bytes") -> its file, where it can be read.
    """

    machine: Machine
    paths: Mapping[str, str]

    def read(self) -> dict[str, float]:
        """Watts, degrees Celsius, busy in [0, 1], bytes; what cannot be read just now is left out."""
        found = {name: self.machine.number(path) for name, path in self.paths.items()}
        return {name: value * _FACTORS[name] for name, value in found.items() if value is not None}


def find_sensors(machine: Machine) -> Sensors:
    """The readable sensors of the first AMD card; none of them where there is no such card."""
    paths: dict[str, str] = {}
    for card in machine.amd_cards()[:1]:
        wanted = [("busy", f"{card}/gpu_busy_percent"), ("gtt_bytes", f"{card}/mem_info_gtt_used")]
        for folder in sorted((machine.root / card / "hwmon").glob("hwmon*")):
            monitor = f"{card}/hwmon/{folder.name}"
            if machine.text(f"{monitor}/name") == "amdgpu":
                wanted += [("watts", f"{monitor}/{name}") for name in _POWER]
                wanted.append(("celsius", f"{monitor}/temp1_input"))
        for name, path in wanted:
            if name not in paths and machine.number(path) is not None:
                paths[name] = path
    return Sensors(machine, paths)


class Telemetry:
    """Reads the sensors in a thread of its own, from `start` to `stop`."""

    def __init__(self, sensors: Sensors, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._sensors = sensors
        self._interval = interval_seconds
        self._lock = threading.Lock()
        self._readings: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin to read; without sensors nothing is started."""
        if self._sensors.paths:
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self) -> dict[str, float]:
        """What was read since the last time: metrics of docs/metrics.md, and `num_gpu_readings`; {} for nothing."""
        with self._lock:
            readings, self._readings = self._readings, []
        if not readings:
            return {}
        found: dict[str, float] = {"num_gpu_readings": len(readings)}
        for name, sensor, combine in _FIELDS:
            values = [reading[sensor] for reading in readings if sensor in reading]
            if values:
                found[name] = round(combine(values), 4)
        return found

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            reading = self._sensors.read()
            with self._lock:
                self._readings.append(reading)


@contextmanager
def telemetry(machine: Machine) -> Iterator[Telemetry]:
    """The machine's sensors, read until the block ends, however it ends."""
    found = Telemetry(find_sensors(machine))
    found.start()
    try:
        yield found
    finally:
        found.stop()
