"""The results of the GPU probes, each in a child process: exit codes, signals and timeouts are distinguished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halo_forge.checks.doctor._section import Line
from halo_forge.hardware import NO_GPU, Gpu, Profile, as_torch_sees_it
from halo_forge.hardware.gfx1151 import Gfx1151

PROBE_SECONDS = 120.0
"""The first start of torch and of a GPU takes most of it."""
MOST_ERROR = 0.02
"""bfloat16 keeps 8 bits."""
SLOW_FLOPS = {"gfx1151": 12e12}
NAMES = ("torch sees", "kernel launch", "attention", "matrix products", "torch's memory figure")

ADVICE = (
    (
        "invalid device function",
        "this torch is not built for the GPU: install the one for it, and unset HSA_OVERRIDE_GFX_VERSION",
    ),
    ("no kernel image", "this torch is not built for the GPU: install the one for it"),
    ("Memory access fault", "unset HSA_OVERRIDE_GFX_VERSION, then try a newer kernel, then a newer ROCm"),
    ("out of memory", "another program holds the GPU's memory: end it"),
    ("driver", "install a newer driver, or a torch for this driver"),
)
"""What a failure says -> what to do."""


@dataclass(frozen=True)
class ProbeOutcome:
    """How a probe ended.

    Attributes:
        found: What it printed; None where it failed.
        failure: Why, in words; empty where it did not fail.
        fix: What would fix it.
    """

    found: dict[str, Any] | None = None
    failure: str = ""
    fix: str = ""


Runner = Callable[[str], ProbeOutcome]


def run_probe(profile: Profile, name: str, seconds: float = PROBE_SECONDS) -> ProbeOutcome:
    """Try a probe of `_probes` with the environment that a run would have."""
    environment = dict(os.environ)
    profile.set_environment(environment)
    return outcome_of([sys.executable, "-m", "halo_forge.checks.doctor._probes", name], environment, seconds)


def outcome_of(command: Sequence[str], environment: dict[str, str], seconds: float) -> ProbeOutcome:
    """Run a command that prints a JSON object, and say how it ended."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        fix = "try a newer kernel and firmware; on gfx1151 try HSA_ENABLE_INTERRUPT=0"
        return ProbeOutcome(None, f"did not finish within {seconds:g} s", fix)
    except OSError as error:
        return ProbeOutcome(None, f"does not start: {error}", "")
    words = done.stderr.strip()
    advice = next((fix for mark, fix in ADVICE if mark.lower() in words.lower()), "")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        fix = advice or "pin another build of torch, and clear LD_LIBRARY_PATH"
        return ProbeOutcome(None, f"killed by {name}" + (f": {words.splitlines()[-1][:200]}" if words else ""), fix)
    if done.returncode != 0:
        last = words.splitlines()[-1][:300] if words else "no error message"
        return ProbeOutcome(None, f"exit code {done.returncode}: {last}", advice)
    try:
        return ProbeOutcome(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        return ProbeOutcome(None, f"printed no result: {done.stdout[-200:]!r}", "")


def probe_lines(profile: Profile, run: Runner, torch_is_there: bool) -> Iterator[Line]:
    """One line for each probe; one that says why none was tried where there is no GPU or no torch for it.

    Where files show no GPU, a torch that is not built for the CPU alone is asked all the same: it has the last word.
    """
    if not torch_is_there:
        yield Line("probes", "skipped", "fix torch first")
        return
    asked = profile.device == "cpu" and profile.why == NO_GPU and profile.machine.torch_build() != "cpu"
    seen = run("seen") if asked or profile.device != "cpu" else ProbeOutcome({"available": False})
    if profile.device == "cpu" and (seen.found is None or not seen.found["available"]):
        failure = f", and torch does not say whether it sees one: {seen.failure}" if seen.found is None else ""
        yield Line("probes", "skipped", f"no GPU for a run: {profile.why}{failure}")
        return
    if seen.found is None or not seen.found["available"]:
        failure = seen.failure if seen.found is None else "torch sees no GPU"
        fix = seen.fix or "see the device and torch checks above; the groups are render and video"
        yield Line("torch sees", "failed", failure, fix)
        yield Line(
            "kernel launch", "failed", "not tried: torch sees no GPU", "hardware.profile: cpu runs without the GPU"
        )
        yield from (Line(name, "skipped", "torch sees no GPU") for name in NAMES[2:])
        return
    gpu = Gpu(**seen.found["gpus"][0])
    yield Line("torch sees", "ok", " ".join(filter(None, (gpu.name, gpu.architecture))))
    found = as_torch_sees_it(profile, gpu)
    if found is not None and found.name != profile.name:
        yield Line("profile of this GPU", "note", f"{found.name}: {found.why}; a run uses it")
        profile = found
    launched = run("kernel")
    yield _kernel(launched)
    if launched.found is None:
        yield from (Line(name, "skipped", "no kernel can be launched") for name in NAMES[2:])
        return
    yield _attention(run("attention"))
    yield _speed(profile, run("speed"))
    yield _memory(profile, gpu)


def _kernel(outcome: ProbeOutcome) -> Line:
    if outcome.found is None:
        return Line("kernel launch", "failed", outcome.failure, outcome.fix)
    error = outcome.found["relative_error"]
    if not error <= MOST_ERROR:
        fix = "install another build of torch: a run would train on wrong numbers"
        return Line("kernel launch", "failed", f"wrong result: relative error {error:.2g}", fix)
    return Line("kernel launch", "ok", f"a bfloat16 product is correct (relative error {error:.1g})")


def _attention(outcome: ProbeOutcome) -> Line:
    if outcome.found is None:
        return Line("attention", "failed", outcome.failure, outcome.fix or "model.attn_implementation: eager")
    text = "; ".join(f"{kernel}: {_cases_in_words(cases)}" for kernel, cases in outcome.found.items())
    wrong = {kernel for kernel, cases in outcome.found.items() if any(map(_is_wrong, cases.values()))}
    if "chosen" in wrong:
        return Line("attention", "failed", f"wrong results: {text}", "model.attn_implementation: eager")
    if wrong:
        found = f"torch does not choose the wrong kernel here, but may for other shapes: {text}"
        return Line("attention", "note", found, "model.attn_implementation: eager is the safe choice")
    forced = [error for kernel, cases in outcome.found.items() if kernel != "chosen" for error in cases.values()]
    if not any(map(_works, forced)):
        found = f"sdpa falls back to plain attention, which is correct but slow: {text}"
        return Line("attention", "note", found, "see `halo-forge docs hardware_notes`")
    return Line("attention", "ok", f"sdpa: {text}")


def _works(error: float | str) -> bool:
    return not isinstance(error, str) and error <= MOST_ERROR


def _is_wrong(error: float | str) -> bool:
    return not isinstance(error, str) and not error <= MOST_ERROR


def _cases_in_words(cases: Mapping[str, float | str]) -> str:
    """Those of one kernel: all right, or which are not, with NaN or the relative error, and which are refused."""
    wrong = [f"{case} {error:.2g}" for case, error in cases.items() if _is_wrong(error) and not isinstance(error, str)]
    refused = [case for case, error in cases.items() if isinstance(error, str)]
    if len(refused) == len(cases):
        return f"refuses ({next(iter(cases.values()), 'nothing tried')})"
    words = [f"WRONG for {', '.join(wrong)}"] if wrong else ["correct"]
    return ", ".join(words + ([f"refuses {', '.join(refused)}"] if refused else []))


def _speed(profile: Profile, outcome: ProbeOutcome) -> Line:
    if outcome.found is None:
        return Line("matrix products", "failed", outcome.failure, outcome.fix)
    flops, least = outcome.found["flops"], SLOW_FLOPS.get(profile.name, 0.0)
    found = f"{flops / 1e12:.1f} TFLOP/s in bfloat16"
    if flops < least:
        fix = "set TORCH_BLAS_PREFER_HIPBLASLT=1, or raise the power limit"
        return Line("matrix products", "note", f"{found}; 25 to 40 is typical", fix)
    return Line("matrix products", "ok", found)


def _memory(profile: Profile, gpu: Gpu) -> Line:
    free, total = gpu.free_bytes, gpu.total_bytes
    found = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    limit = profile.pool_bytes() if isinstance(profile, Gfx1151) else None
    if free > total or (limit is not None and total < limit / 2):
        return Line("torch's memory figure", "note", f"{found}: implausible; the kernel's figures are used instead")
    return Line("torch's memory figure", "ok", found)
