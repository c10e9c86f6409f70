"""What the sensors say is averaged, forgotten when taken, and absent where there are none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from made_up_machines import CARD, GIB, LAPTOP, NVIDIA, machine, strix_halo

from halo_forge.hardware.telemetry import Sensors, Telemetry, find_sensors, telemetry


class Replayed(Sensors):
    """Sensors that say these things in turn, then nothing new."""

    def __init__(self, root: Path, readings: list[dict[str, float]]) -> None:
        super().__init__(machine(root, {}), {"watts": "x"})
        object.__setattr__(self, "readings", readings)
        object.__setattr__(self, "all_read", threading.Event())

    def read(self) -> dict[str, float]:
        if self.readings:  # type: ignore[attr-defined]
            return dict(self.readings.pop(0))  # type: ignore[attr-defined]
        self.all_read.set()  # type: ignore[attr-defined]
        return {}


def test_sensors_are_found_and_read_in_plain_units(tmp_path: Path) -> None:
    found = find_sensors(machine(tmp_path, strix_halo()))
    assert found.read() == {"busy": 0.75, "gtt_bytes": 2.0 * GIB, "watts": 85.0, "celsius": 71.0}


def test_either_power_file_will_do_and_a_missing_one_is_no_zero(tmp_path: Path) -> None:
    files = strix_halo()
    monitor = f"{CARD}/hwmon/hwmon3"
    files[f"{monitor}/power1_input"] = files.pop(f"{monitor}/power1_average")
    del files[f"{CARD}/gpu_busy_percent"]
    here = machine(tmp_path, files)
    found = find_sensors(here)
    assert found.read() == {"gtt_bytes": 2.0 * GIB, "watts": 85.0, "celsius": 71.0}
    (tmp_path / monitor / "temp1_input").unlink()  # a sensor that goes away
    assert "celsius" not in found.read()
    # hwmon of another device below the same card
    (tmp_path / monitor / "name").write_text("nvme\n")
    assert find_sensors(here).paths.keys() == {"gtt_bytes"}


@pytest.mark.parametrize("files", [{}, LAPTOP, NVIDIA])
def test_no_sensors_no_thread_no_fields(tmp_path: Path, files: dict[str, object]) -> None:
    before = threading.active_count()
    with telemetry(machine(tmp_path, files)) as found:
        assert threading.active_count() == before
        assert found.take() == {}


def test_what_was_read_is_combined_and_forgotten(tmp_path: Path) -> None:
    sensors = Replayed(
        tmp_path,
        [
            {"watts": 60.0, "celsius": 50.0, "busy": 0.5, "gtt_bytes": 10.0},
            {"watts": 120.0, "celsius": 90.0, "busy": 1.0, "gtt_bytes": 30.0},
            {"watts": 90.0, "celsius": 70.0, "gtt_bytes": 20.0},
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


def test_the_thread_ends_with_the_block_even_by_an_error(tmp_path: Path) -> None:
    here = machine(tmp_path, strix_halo())
    with pytest.raises(ZeroDivisionError), telemetry(here):
        assert any(thread.name == "telemetry" for thread in threading.enumerate())
        raise ZeroDivisionError
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())
