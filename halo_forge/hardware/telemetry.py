"""GPU sensors while a cycle runs: from files of the kernel, or from the vendor's library if it is installed.

AMD's driver shows power, temperature, load and memory in /sys, without root; `amdsmi` is asked only for what is missing
there, because it was seen to crash the process that asks.  NVIDIA's driver has no such files: its values come from
NVML, through the package `nvidia-ml-py`.  Neither is required, and a value that cannot be read is absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from halo_forge.hardware._profile import Profile
from halo_forge.hardware.machine import GFX1151_PCI, Machine

INTERVAL_SECONDS = 1.0
ASK_SECONDS = 5.0
"""How long to wait for the sensors: if the GPU hangs, they may hang too."""
NAMES = ("watts", "celsius", "busy", "memory_bytes")
_POWER = ("power1_average", "power1_input")
"""Microwatts; which of the two there is depends on the kernel."""
_FIELDS = (
    ("gpu_power_watts_mean", "watts", statistics.fmean),
    ("gpu_power_watts_max", "watts", max),
    ("gpu_temperature_celsius_max", "celsius", max),
    ("gpu_busy_mean", "busy", statistics.fmean),
    ("gpu_memory_bytes_max", "memory_bytes", max),
)
Reader = Callable[[], float | None]
"""One value in plain units; None if it cannot be read just now."""
ScaledFigure = tuple[Callable[[], Any], int]
"""A library's value, or what it returns instead, and the divisor that gives plain units."""


class NotReadable(Exception):
    """Why a library shows nothing; a run continues without its values, and the doctor says so."""


@dataclass(frozen=True)
class Sensors:
    """What can be read of one GPU.

    Attributes:
        readers: What is measured (of `NAMES`: watts, degrees Celsius, share of time in [0, 1], bytes) -> how.
        source: Where it comes from, in words.
        why_not: What keeps the rest from being read; empty where nothing does.
    """

    readers: Mapping[str, Reader] = field(default_factory=dict)
    source: str = "nothing"
    why_not: str = ""

    def read(self) -> dict[str, float]:
        """The current values; what cannot be read just now is left out."""
        found = {name: reader() for name, reader in self.readers.items()}
        return {name: value for name, value in found.items() if value is not None}


def find_sensors(profile: Profile) -> Sensors:
    """The sensors of the GPU of a profile; none of them for the CPU."""
    if profile.name == "cpu":
        return Sensors(why_not="no GPU")
    return _nvidia(profile) if profile.name == "cuda" else _amd(profile)


def _amd(profile: Profile) -> Sensors:
    card, machine = _card(profile), profile.machine
    readers = {} if card is None else _file_readers(machine, card)
    if readers.keys() >= set(NAMES):
        return Sensors(readers, "/sys")
    place = None if profile.gpu is None else profile.gpu.pci
    try:
        more = _amdsmi_readers(place)
    except NotReadable as error:
        return Sensors(readers, "/sys" if readers else "nothing", f"{', '.join(_missing(readers))}: {error}")
    found = {**more, **readers}
    why = ", ".join(_missing(found))
    return Sensors(found, "/sys and amdsmi" if readers else "amdsmi", why and f"{why}: neither shows it")


def _missing(readers: Mapping[str, Reader]) -> list[str]:
    return [name for name in NAMES if name not in readers]


def _card(profile: Profile) -> str | None:
    """The card's folder: at the place that torch names, else the one of the chip, else the first."""
    machine = profile.machine
    at = None if profile.gpu is None or profile.gpu.pci is None else machine.card_at(profile.gpu.pci)
    if at is not None:
        return at
    cards = machine.amd_cards(GFX1151_PCI if profile.name == "gfx1151" else None)
    return cards[0] if cards else None


def _file_readers(machine: Machine, card: str) -> dict[str, Reader]:
    def scaled(factor: float, *paths: str) -> Reader:
        def read() -> float | None:
            found = [machine.number(path) for path in paths]
            known = [value for value in found if value is not None]
            return sum(known) * factor if len(known) == len(paths) else None  # a part is not the whole

        return read

    wanted = [
        ("busy", scaled(0.01, f"{card}/gpu_busy_percent")),
        ("memory_bytes", scaled(1.0, f"{card}/mem_info_vram_used", f"{card}/mem_info_gtt_used")),
    ]
    for folder in sorted((machine.root / card / "hwmon").glob("hwmon*")):
        monitor = f"{card}/hwmon/{folder.name}"
        if machine.text(f"{monitor}/name") == "amdgpu":
            wanted += [("watts", scaled(1e-6, f"{monitor}/{name}")) for name in _POWER]
            wanted.append(("celsius", scaled(1e-3, f"{monitor}/temp1_input")))
    readers: dict[str, Reader] = {}
    for name, reader in wanted:
        if name not in readers and reader() is not None:
            readers[name] = reader
    return readers


def _amdsmi_readers(pci: str | None) -> dict[str, Reader]:
    """By AMD SMI's Python package, which comes with ROCm; "N/A" is what it says for unknown.

    Raises:
        NotReadable: It is not installed, does not work, or shows several GPUs and nobody says which is meant.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find; standard output is the result's
            amdsmi = importlib.import_module("amdsmi")
    except ImportError as error:
        raise NotReadable(f"{error}; ROCm's package amdsmi may show it") from error
    except (OSError, KeyError, AttributeError) as error:  # how it fails where its library is not there
        raise NotReadable(f"amdsmi cannot be imported: {type(error).__name__}: {error}") from error
    try:
        amdsmi.amdsmi_init()
        handles = amdsmi.amdsmi_get_processor_handles()
        one = handles[:1] if pci is None else [amdsmi.amdsmi_get_processor_handle_from_bdf(pci)]
    except amdsmi.AmdSmiException as error:
        raise NotReadable(f"amdsmi: {' '.join(str(error).split())}") from error
    if not one or (pci is None and len(handles) > 1):
        raise NotReadable(f"amdsmi shows {len(handles)} GPUs, and torch does not say which is used")
    handle = one[0]
    celsius = (handle, amdsmi.AmdSmiTemperatureType.EDGE, amdsmi.AmdSmiTemperatureMetric.CURRENT)
    pools = (amdsmi.AmdSmiMemoryType.VRAM, amdsmi.AmdSmiMemoryType.GTT)

    def watts() -> float | None:
        info = amdsmi.amdsmi_get_power_info(handle)
        found = (_number(info.get(name)) for name in ("current_socket_power", "average_socket_power", "socket_power"))
        return next((value for value in found if value is not None), None)

    def memory_bytes() -> float | None:
        used = [_number(amdsmi.amdsmi_get_gpu_memory_usage(handle, pool)) for pool in pools]
        known = [value for value in used if value is not None]
        return sum(known) if len(known) == len(pools) else None

    asked: dict[str, ScaledFigure] = {
        "watts": (watts, 1),
        "celsius": (lambda: amdsmi.amdsmi_get_temp_metric(*celsius), 1),
        "busy": (lambda: amdsmi.amdsmi_get_gpu_activity(handle)["gfx_activity"], 100),
        "memory_bytes": (memory_bytes, 1),
    }
    return _answering(asked, amdsmi.AmdSmiException)


def _nvidia(profile: Profile) -> Sensors:
    try:
        return Sensors(_nvml_readers(None if profile.gpu is None else profile.gpu.uuid), "NVML")
    except NotReadable as error:
        return Sensors(why_not=str(error))


def _nvml_readers(uuid: str | None) -> dict[str, Reader]:
    """By NVML, whose Python package is `nvidia-ml-py`.

    Raises:
        NotReadable: As with AMD's.
    """
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError as error:
        more = "`pip install nvidia-ml-py` shows power, temperature, load and memory"
        raise NotReadable(f"{error}; {more}") from error
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0) if uuid is None else pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        raise NotReadable(f"NVML: {error}") from error
    if uuid is None and count > 1:
        raise NotReadable(f"NVML shows {count} GPUs, and torch does not say which is used")
    asked: dict[str, ScaledFigure] = {
        "watts": (lambda: pynvml.nvmlDeviceGetPowerUsage(handle), 1000),
        "celsius": (lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU), 1),
        "busy": (lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100),
        "memory_bytes": (lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used, 1),
    }
    return _answering(asked, pynvml.NVMLError)


def _answering(asked: Mapping[str, ScaledFigure], refused: type[Exception]) -> dict[str, Reader]:
    """The sensors that give a value now; a later refusal (a sensor that disappears) is no value."""

    def reader(ask: Callable[[], Any], divisor: int) -> Reader:
        def read() -> float | None:
            try:
                value = _number(ask())
            except (refused, KeyError):  # amdsmi leaves out keys of what a chip does not have
                return None
            return None if value is None else value / divisor

        return read

    readers = {name: reader(*each) for name, each in asked.items()}
    return {name: read for name, read in readers.items() if read() is not None}


def _number(value: Any) -> float | None:
    """What a library says, if it is a number; amdsmi says "N/A" for unknown."""
    return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class SensorReport:
    """What the sensors of a GPU said at one moment.

    Attributes:
        values: Sensor (of `NAMES`) -> its value in plain units; a sensor that could not be read just then is absent.
        names: The sensors that can be read.
        source, why_not: See `Sensors`.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    source: str = "nothing"
    why_not: str = ""

    @classmethod
    def of(cls, sensors: Sensors) -> SensorReport:
        """Read the sensors once."""
        return cls(sensors.read(), tuple(sorted(sensors.readers)), sensors.source, sensors.why_not)


class SensorQuery:
    """Reads the sensors of a profile's GPU in a child process: if the driver hangs, it takes the child and not us.

    A context manager.  The child starts at once, without a GPU there is none; what is left of it is killed at the end.
    """

    def __init__(self, profile: Profile) -> None:
        self._started = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        if profile.name != "cpu":
            gpu = None if profile.gpu is None else dataclasses.asdict(profile.gpu)
            arguments = [profile.name, str(profile.machine.root), json.dumps(gpu)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.kill()  # not waited for: a process that hangs in the kernel does not end even then

    def wait(self, seconds: float) -> None:
        """Wait until the child has answered, at most until `seconds` after its start."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._left(seconds))

    def report(self, seconds: float = ASK_SECONDS) -> SensorReport:
        """The answer.

        Args:
            seconds: How long to wait for it, counted from the start of the child.

        Raises:
            NotReadable: There was no answer in time, or none at all.
        """
        if self._process is None:
            return SensorReport(why_not="no GPU")
        try:
            said, _ = self._process.communicate(timeout=self._left(seconds))
        except subprocess.TimeoutExpired as error:
            raise NotReadable(f"its sensors do not answer within {seconds:g} s") from error
        try:
            found = json.loads(said.splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise NotReadable(f"its sensors do not answer: exit code {self._process.returncode}") from error
        return SensorReport(found["values"], tuple(found["names"]), found["source"], found["why_not"])

    def _left(self, seconds: float) -> float:
        return max(0.0, self._started + seconds - time.monotonic())


def sensor_report(profile: Profile, seconds: float = ASK_SECONDS) -> SensorReport:
    """What the sensors of a profile's GPU say now, asked in a child process.

    Raises:
        NotReadable: There was no answer in time, or none at all.
    """
    with SensorQuery(profile) as query:
        return query.report(seconds)


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
        """Start reading; without sensors nothing is started."""
        if self._sensors.readers:
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread; one that hangs in a library is left behind, and does not prevent the process from ending."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(ASK_SECONDS)

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


@contextlib.contextmanager
def telemetry(profile: Profile) -> Iterator[Telemetry]:
    """The sensors of a profile's GPU, read until the block ends, however it ends."""
    found = Telemetry(find_sensors(profile))
    found.start()
    try:
        yield found
    finally:
        found.stop()


def _answer(name: str, root: str, gpu: str) -> None:
    from halo_forge.hardware import Gpu, profile_class

    known = json.loads(gpu)
    profile = profile_class(name)(Machine(Path(root)), "named")
    profile = dataclasses.replace(profile, gpu=None if known is None else Gpu(**known))
    sys.stdout.write(json.dumps(dataclasses.asdict(SensorReport.of(find_sensors(profile)))) + "\n")


if __name__ == "__main__":
    _answer(*sys.argv[1:])
