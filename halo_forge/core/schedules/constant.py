"""The same value in every cycle: the baseline, and what a plain number means."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from halo_forge.core.schedules._schedule import History, NonNegativeOrPass, Schedule, Value


class Constant(Schedule):
    """`value` in every cycle: a number of at least 0, or "pass".

    The key in files is `value`; in Python that is the name of the method, so the attribute is called `setting`.
    """

    model_config = ConfigDict(
        serialize_by_alias=True,
        json_schema_extra={"examples": [{"kind": "constant", "value": 5e-5}, {"kind": "constant", "value": "pass"}]},
    )

    kind: Literal["constant"] = "constant"
    setting: NonNegativeOrPass = Field(alias="value")

    @property
    def is_numeric(self) -> bool:
        return self.setting != "pass"

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> Value:
        self.position(cycle, num_cycles)
        return self.setting
