"""What the sensors say is averaged, forgotten when taken, and absent where there are none."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from made_up_machines import CARD, GIB, LAPTOP, NVIDIA, machine, strix_halo

from halo_forge.hardware import Gpu, detect
from halo_forge.hardware.telemetry import (
    NotReadable,
    SensorReport,
    Sensors,
    Telemetry,
    find_sensors,
    sensor_report,
    telemetry,
)


class Replayed(Sensors):
    """Sensors that say these things in turn, then nothing new."""

    def __init__(self, readings: list[dict[str, float]]) -> None:
        super().__init__({"watts": lambda: None})
        object.__setattr__(self, "readings", readings)
        object.__setattr__(self, "all_read", threading.Event())

    def read(self) -> dict[str, float]:
        if self.readings:  # type: ignore[attr-defined]
            return dict(self.readings.pop(0))  # type: ignore[attr-defined]
        self.all_read.set()  # type: ignore[attr-defined]
        return {}


def sensors_of(root: Path, files: dict[str, object], gpu: Gpu | None = None) -> Sensors:
    return find_sensors(dataclasses.replace(detect(machine(root, files)), gpu=gpu))


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither maker's package is installed, unless a test puts one there."""
    for name in ("pynvml", "amdsmi"):
        monkeypatch.setitem(sys.modules, name, None)


# ---- files


def test_sensors_are_found_and_read_in_plain_units(tmp_path: Path) -> None:
    found = sensors_of(tmp_path, strix_halo())
    assert found.read() == {"busy": 0.75, "memory_bytes": 2.0 * GIB, "watts": 85.0, "celsius": 71.0}
    assert (found.source, found.why_not) == ("/sys", "")


def test_memory_is_that_of_both_pools(tmp_path: Path) -> None:
    """The kernel takes a GPU's memory from VRAM on a card, and on a chip with a large carve-out; else from GTT."""
    files = strix_halo() | {f"{CARD}/mem_info_vram_used": 30 * GIB, f"{CARD}/mem_info_gtt_used": GIB // 2}
    assert sensors_of(tmp_path, files).read()["memory_bytes"] == 30.5 * GIB


@pytest.mark.parametrize("missing", ["vram", "gtt"])
def test_the_memory_of_one_pool_is_not_called_the_whole(tmp_path: Path, missing: str) -> None:
    files = strix_halo()
    del files[f"{CARD}/mem_info_{missing}_used"]
    found = sensors_of(tmp_path, files)
    assert "memory_bytes" not in found.read() and found.why_not.startswith("memory_bytes: ")


def test_either_power_file_will_do_and_a_missing_one_is_no_zero(tmp_path: Path) -> None:
    files = strix_halo()
    monitor = f"{CARD}/hwmon/hwmon3"
    files[f"{monitor}/power1_input"] = files.pop(f"{monitor}/power1_average")
    del files[f"{CARD}/gpu_busy_percent"]
    found = sensors_of(tmp_path, files)
    assert found.read() == {"memory_bytes": 2.0 * GIB, "watts": 85.0, "celsius": 71.0}
    assert found.why_not.startswith("busy: ")
    (tmp_path / monitor / "temp1_input").unlink()  # a sensor that goes away
    assert "celsius" not in found.read()
    # hwmon of another device below the same card
    (tmp_path / monitor / "name").write_text("nvme\n")
    assert sensors_of(tmp_path, {}).readers.keys() == {"memory_bytes"}


OTHER = "sys/class/drm/card0/device"
TWO_CARDS = strix_halo() | {
    f"{CARD}/device": "0x1586",
    f"{CARD}/uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:c5:00.0",
    f"{OTHER}/vendor": "0x1002",
    f"{OTHER}/device": "0x744c",
    f"{OTHER}/uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0",
    f"{OTHER}/gpu_busy_percent": 10,
}


@pytest.mark.parametrize(
    ("gpu", "busy"),
    [
        (None, 0.75),  # the chip that the profile is for, not the first card
        (Gpu("RX 7900", "gfx1100", "0000:03:00.0"), 0.1),
        (Gpu("8060S", "gfx1151", "0000:c5:00.0"), 0.75),
    ],
)
def test_the_card_is_the_one_that_torch_uses(tmp_path: Path, gpu: Gpu | None, busy: float) -> None:
    assert sensors_of(tmp_path, TWO_CARDS, gpu).read()["busy"] == busy


@pytest.mark.parametrize("files", [{}, LAPTOP, NVIDIA])
def test_no_sensors_no_thread_no_fields(tmp_path: Path, files: dict[str, object]) -> None:
    before = threading.active_count()
    with telemetry(detect(machine(tmp_path, files))) as found:
        assert threading.active_count() == before
        assert found.take() == {}


# ---- the makers' libraries, shaped as nvidia-ml-py 13.615 and amdsmi 7.0.2


class Nvml(ModuleType):
    """The functions of `pynvml` that are used, with its units: milliwatts, degrees Celsius, percent, bytes."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, num_gpus: int = 1) -> None:
        super().__init__("pynvml")
        self.num_gpus, self.refused, self.is_there = num_gpus, set[str](), True

    def _answer(self, name: str, value: object) -> object:
        if name in self.refused:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:
        if not self.is_there:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return self.num_gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return f"handle of {uuid}"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> object:
        return self._answer("power", 250_500 if handle == "handle of GPU-5e" else 60_000)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> object:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._answer("temperature", 64)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> object:
        return self._answer("load", SimpleNamespace(gpu=87, memory=40))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        return self._answer("memory", SimpleNamespace(total=24 * GIB, free=4 * GIB, used=20 * GIB))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def test_nvidias_figures_come_from_nvml(tmp_path: Path, nvml: Nvml) -> None:
    found = sensors_of(tmp_path, NVIDIA)
    assert found.read() == {"watts": 60.0, "celsius": 64.0, "busy": 0.87, "memory_bytes": 20.0 * GIB}
    assert (found.source, found.why_not) == ("NVML", "")
    with telemetry(detect(machine(tmp_path, NVIDIA))):
        assert any(thread.name == "telemetry" for thread in threading.enumerate())


def test_of_several_the_one_that_torch_uses(tmp_path: Path, nvml: Nvml) -> None:
    nvml.num_gpus = 2
    used = Gpu("NVIDIA H200", uuid="GPU-5e")
    assert sensors_of(tmp_path, NVIDIA, used).read()["watts"] == 250.5
    unknown = sensors_of(tmp_path, NVIDIA)
    assert unknown.read() == {} and "NVML shows 2 GPUs" in unknown.why_not


def test_a_figure_that_nvml_refuses_is_absent_and_a_sensor_may_go_away(tmp_path: Path, nvml: Nvml) -> None:
    nvml.refused = {"power"}
    found = sensors_of(tmp_path, NVIDIA)
    assert found.read().keys() == {"celsius", "busy", "memory_bytes"}
    nvml.refused = {"power", "load"}
    assert found.read().keys() == {"celsius", "memory_bytes"}


def test_why_nothing_of_nvidia_is_shown(tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.is_there = False
    assert sensors_of(tmp_path, NVIDIA).why_not == "NVML: NVML Shared Library Not Found"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in sensors_of(tmp_path, NVIDIA).why_not


class AmdSmi(ModuleType):
    """The functions of `amdsmi` that are used, with its units: watts, degrees Celsius, percent, bytes, and "N/A"."""

    AmdSmiException = type("AmdSmiException", (Exception,), {})
    AmdSmiTemperatureType = SimpleNamespace(EDGE="edge")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current")
    AmdSmiMemoryType = SimpleNamespace(VRAM="vram", GTT="gtt")

    def __init__(self) -> None:
        super().__init__("amdsmi")
        self.handles, self.fails = ["first"], False

    def amdsmi_init(self) -> None:
        if self.fails:
            raise self.AmdSmiException("Error code:\n\t34 | AMDSMI_STATUS_DRIVER_NOT_LOADED")

    def amdsmi_get_processor_handles(self) -> list[str]:
        return self.handles

    def amdsmi_get_processor_handle_from_bdf(self, bdf: str) -> str:
        return bdf

    def amdsmi_get_power_info(self, handle: str) -> dict[str, object]:
        watts = 200 if handle == "0000:03:00.0" else 90
        return {"socket_power": "N/A", "current_socket_power": watts, "average_socket_power": "N/A"}

    def amdsmi_get_gpu_activity(self, handle: str) -> dict[str, object]:
        return {"gfx_activity": "N/A", "umc_activity": 3, "mm_activity": 0}

    def amdsmi_get_temp_metric(self, handle: str, kind: str, metric: str) -> int:
        assert (kind, metric) == ("edge", "current")
        return 55

    def amdsmi_get_gpu_memory_usage(self, handle: str, pool: str) -> int:
        return {"vram": 8 * GIB, "gtt": GIB}[pool]


@pytest.fixture
def amdsmi(monkeypatch: pytest.MonkeyPatch) -> AmdSmi:
    found = AmdSmi()
    monkeypatch.setitem(sys.modules, "amdsmi", found)
    return found


BARE_AMD: dict[str, object] = {"sys/class/kfd/kfd/topology/nodes/1/properties": "gfx_target_version 110000"}


def test_amds_library_is_asked_for_what_files_do_not_show(tmp_path: Path, amdsmi: AmdSmi) -> None:
    found = sensors_of(tmp_path / "bare", BARE_AMD)
    assert found.read() == {"watts": 90.0, "celsius": 55.0, "memory_bytes": 9.0 * GIB}
    assert (found.source, found.why_not) == ("amdsmi", "busy: neither shows it")
    files = strix_halo()
    del files[f"{CARD}/hwmon/hwmon3/power1_average"]
    both = sensors_of(tmp_path / "both", files)
    assert both.read() == {"watts": 90.0, "celsius": 71.0, "busy": 0.75, "memory_bytes": 2.0 * GIB}
    assert both.source == "/sys and amdsmi"
    used = Gpu("RX 7900", "gfx1100", "0000:03:00.0")
    assert sensors_of(tmp_path / "none", {}, used).source == "nothing", "a machine without a GPU asks nobody"
    assert sensors_of(tmp_path / "other", BARE_AMD, used).read()["watts"] == 200.0


def test_what_is_no_number_or_not_there_is_absent_and_stops_nothing(
    tmp_path: Path, amdsmi: AmdSmi, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = sensors_of(tmp_path / "bare", BARE_AMD)
    monkeypatch.setattr(amdsmi, "amdsmi_get_temp_metric", lambda *arguments: "N/A")
    monkeypatch.setattr(amdsmi, "amdsmi_get_gpu_activity", lambda handle: {})
    monkeypatch.setattr(amdsmi, "amdsmi_get_gpu_memory_usage", lambda handle, pool: {"vram": GIB, "gtt": "N/A"}[pool])
    assert bare.read() == sensors_of(tmp_path / "again", BARE_AMD).read() == {"watts": 90.0}
    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", lambda handle: None)
    monkeypatch.setattr(nvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu="N/A"))
    assert sensors_of(tmp_path / "nvidia", NVIDIA).read().keys() == {"celsius", "memory_bytes"}


def test_where_files_show_all_amds_library_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen to end the process that asks it."""

    def never(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("importlib.import_module", never)
    assert sensors_of(tmp_path, strix_halo()).source == "/sys"


def test_why_nothing_more_of_amd_is_shown(tmp_path: Path, amdsmi: AmdSmi, monkeypatch: pytest.MonkeyPatch) -> None:
    amdsmi.handles = ["first", "second"]
    assert "amdsmi shows 2 GPUs" in sensors_of(tmp_path, BARE_AMD).why_not
    amdsmi.fails = True
    assert "amdsmi: Error code: 34 | AMDSMI_STATUS_DRIVER_NOT_LOADED" in sensors_of(tmp_path, BARE_AMD).why_not

    def without_its_library(name: str) -> None:
        print("Unable to find libamd_smi.so library")
        raise KeyError("libamd_smi.so")

    monkeypatch.setattr("importlib.import_module", without_its_library)
    assert "amdsmi cannot be imported: KeyError" in sensors_of(tmp_path, BARE_AMD).why_not


# ---- asked in a process of its own


def test_another_process_says_the_same(tmp_path: Path) -> None:
    profile = detect(machine(tmp_path, strix_halo()))
    assert sensor_report(profile, 60) == SensorReport.of(find_sensors(profile))
    assert sensor_report(detect(machine(tmp_path / "laptop", LAPTOP))) == SensorReport(why_not="no GPU")


def test_another_process_asks_the_same_of_several_gpus(tmp_path: Path) -> None:
    gpu = Gpu("RX 7900", "gfx1100", "0000:03:00.0")
    profile = dataclasses.replace(detect(machine(tmp_path, TWO_CARDS)), gpu=gpu)
    assert sensor_report(profile, 60).values["busy"] == 0.1


@pytest.mark.parametrize(
    ("library", "seconds", "why"),
    [("import time; time.sleep(60)", 1.0, "within 1 s"), ("import os; os._exit(3)", 60.0, "exit code 3")],
    ids=["hangs", "ends its process"],
)
def test_a_library_that_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, seconds: float, why: str
) -> None:
    profile = detect(machine(tmp_path, {**NVIDIA, "pynvml.py": library}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(NotReadable, match=f"its sensors do not answer.*{why}"):
        sensor_report(profile, seconds)


# ---- what is made of it


def test_what_was_read_is_combined_and_forgotten() -> None:
    sensors = Replayed(
        [
            {"watts": 60.0, "celsius": 50.0, "busy": 0.5, "memory_bytes": 10.0},
            {"watts": 120.0, "celsius": 90.0, "busy": 1.0, "memory_bytes": 30.0},
            {"watts": 90.0, "celsius": 70.0, "memory_bytes": 20.0},
        ],
    )
    found = Telemetry(sensors, interval_seconds=0.001)
    found.start()
    assert sensors.all_read.wait(10)  # type: ignore[attr-defined]
    found.stop()
    taken = found.take()
    assert taken.pop("num_gpu_readings") >= 3
    assert taken == {
        "gpu_power_watts_mean": 90.0,
        "gpu_power_watts_max": 120.0,
        "gpu_temperature_celsius_max": 90.0,
        "gpu_busy_mean": 0.75,
        "gpu_memory_bytes_max": 30.0,
    }
    assert found.take() == {}


def test_a_sensor_that_hangs_does_not_keep_a_run_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang() -> float | None:
        asked.set()
        released.wait(60)
        return None

    monkeypatch.setattr("halo_forge.hardware.telemetry.ASK_SECONDS", 0.1)
    found = Telemetry(Sensors({"watts": hang}), interval_seconds=0.001)
    found.start()
    assert asked.wait(10)
    stopping = threading.Thread(target=found.stop, daemon=True)
    stopping.start()
    stopping.join(20)
    has_ended = not stopping.is_alive()
    released.set()
    assert has_ended


def test_the_thread_ends_with_the_block_even_by_an_error(tmp_path: Path) -> None:
    here = detect(machine(tmp_path, strix_halo()))
    with pytest.raises(ZeroDivisionError), telemetry(here):
        assert any(thread.name == "telemetry" for thread in threading.enumerate())
        raise ZeroDivisionError
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())
