"""The pretended GPU itself: true numbers, a GPU's refusals, and what is counted."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pretended_gpu import GIB, counted, environment, install

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("pretended")]

Function = Callable[[Any], Any]


def draw(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


NUMBERS: dict[str, Function] = {
    "pointwise": lambda x: (x * 2 + x.sin()).clamp(min=0.1),
    "product": lambda x: x @ x.transpose(-1, -2),
    "softmax": lambda x: x.softmax(-1).log(),
    "views": lambda x: x.transpose(1, 2).reshape(2, -1)[:, ::3].contiguous(),
    "index": lambda x: x[:, torch.tensor([1, 0], device=x.device), 1:],
    "sort": lambda x: x.sort(dim=-1)[0].cumsum(-1),
    "fused norm": lambda x: torch.nn.functional.rms_norm(x, x.shape[-1:], x[0, 0, 0] + 1, 1e-5),
    "layer norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "grouped attention": lambda x: torch.nn.functional.scaled_dot_product_attention(
        x, x[:, :2], x[:, :2], enable_gqa=True
    ),
    "masked attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=x[..., :5] * 0.5),
    "attention where": lambda x: torch.nn.functional.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.eye(5, dtype=torch.bool, device=x.device).expand(2, 4, 5, 5)
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_values_and_gradients_are_those_of_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        x = draw(2, 4, 5, 8).to(device).requires_grad_()
        y = NUMBERS[name](x)
        assert y.device == x.device
        (gradient,) = torch.autograd.grad((y * y.detach().cos()).sum(), x)
        found.append((y.detach().cpu(), gradient.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_its_tensors_are_plain_tensors() -> None:
    x = torch.ones(2, device="cuda")
    assert type(x) is torch.Tensor and x.is_cuda and x.device == torch.device("cuda", 0)
    module = torch.nn.Linear(3, 3).to("cuda")
    assert type(module.weight) is torch.nn.Parameter and module.weight.is_cuda
    assert torch.cuda.is_available() and torch.cuda.get_device_name() == "Pretended GPU"


MIXED: dict[str, Function] = {
    "add": lambda x: x + torch.ones(3),
    "product": lambda x: x @ torch.ones(3, 3),
    "in place": lambda x: x.add_(torch.ones(3)),
    "concatenate": lambda x: torch.cat([x, torch.ones(3, 3)]),
    "gather": lambda x: x.gather(0, torch.zeros(1, 3, dtype=torch.long)),
    "put into the CPU's": lambda x: torch.ones(3).add_(x[0]),
    "index of the CPU's": lambda x: torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")],
    "embedding": lambda x: torch.nn.functional.embedding(torch.zeros(1, dtype=torch.long), x),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x[None], x[None], torch.ones(1, 3, 3)),
    "a scalar that no kernel takes": lambda x: torch.cat([x[0], torch.tensor(1.0)[None]]),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        MIXED[name](torch.ones(3, 3, device="cuda"))


def test_what_a_gpu_takes_of_the_cpu() -> None:
    x = torch.zeros(3, device="cuda")
    x[torch.tensor([1])] = 2.0
    assert (x + torch.tensor(1.0)).tolist() == [1.0, 3.0, 1.0]
    assert x[torch.tensor([1])].tolist() == [2.0]
    assert torch.where(x > 1, torch.tensor(5.0), x).tolist() == [0.0, 5.0, 0.0]


def test_a_generator_of_the_cpu_is_refused() -> None:
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.ones(3, device="cuda").uniform_(generator=torch.Generator())


def test_step_counts_of_a_fused_optimizer_must_be_on_the_device() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()
    with pytest.raises((RuntimeError, AssertionError)):
        optimizer.step()


def test_launches_are_counted_and_views_are_not() -> None:
    x = torch.ones(4, 4, device="cuda")
    with counted(with_names=True) as found:
        (x @ x).transpose(0, 1)[1:].relu()
        torch.nn.functional.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None])
        torch.nn.functional.rms_norm(x, (4,))
    assert found.launches == 4 and found.views > 0 and found.waits == 0
    assert found.operators["launches", "aten::mm"] == 1
    assert sum(number for (kind, _), number in found.operators.items() if kind == "launches") == 4


WAITS: list[tuple[str, Function]] = [
    ("reads", lambda x: x.sum().item()),
    ("reads", lambda x: x.tolist()),
    ("reads", lambda x: x.cpu()),
    ("reads", lambda x: bool((x > 0).any())),
    ("reads", lambda x: torch.equal(x, x)),
    ("writes", lambda x: torch.tensor([1.0], device=x.device)),
    ("writes", lambda x: x[[0, 1]]),
    ("writes", lambda x: torch.ones(3).pin_memory().to(x.device)),
    ("shapes", lambda x: x.nonzero()),
    ("shapes", lambda x: x[x > 0]),
    ("synchronizations", lambda x: torch.cuda.synchronize()),
]


@pytest.mark.parametrize("number", range(len(WAITS)))
def test_waits_are_counted_by_what_is_waited_for(number: int) -> None:
    kind, function = WAITS[number]
    x = torch.ones(3, device="cuda")
    with counted(with_names=True) as found:
        function(x)
    assert found.waits == getattr(found, kind) == 1
    assert all("test_pretended_gpu.py" in place for _, place in found.places)


def test_what_does_not_wait() -> None:
    x, pinned = torch.ones(3, device="cuda"), torch.ones(3).pin_memory()
    with counted() as found:
        x[x > 0] = 2.0  # one mask and one number: masked_fill_
        pinned.to("cuda", non_blocking=True)
        torch.zeros(3, device="cuda")
        x.sum().clone()
    assert found.waits == 0 and found.async_copies == 1


def test_an_asynchronous_copy_arrives_when_it_was_waited_for() -> None:
    x, pinned = torch.arange(4, device="cuda"), torch.empty(4, dtype=torch.long, pin_memory=True)
    early, late = torch.cuda.Event(), torch.cuda.Event()
    early.record()
    pinned.copy_(x, non_blocking=True)
    late.record()
    x.add_(1)
    assert pinned.tolist() != [0, 1, 2, 3]
    early.synchronize()
    assert pinned.tolist() != [0, 1, 2, 3], "the event was before the copy"
    late.synchronize()
    assert pinned.tolist() == [0, 1, 2, 3], "as it was when the copy was asked for"


def test_memory_is_counted_and_what_exceeds_it_is_refused() -> None:
    install(memory_bytes=1024**2)
    before = torch.cuda.memory_allocated()
    x = torch.zeros(1024, device="cuda")
    view = x[:10]
    assert torch.cuda.memory_allocated() - before == 4096
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        torch.zeros(1024**2, device="cuda")
    assert torch.cuda.memory_allocated() - before == 4096
    torch.cuda.reset_peak_memory_stats()
    del x
    assert torch.cuda.memory_allocated() - before == 4096, "the view still holds it"
    torch.zeros(2048, device="cuda")
    del view
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before == 4096 + 8192
    torch.cuda.set_per_process_memory_fraction(0.25)
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(100_000, device="cuda")


def test_a_tensor_that_grows_keeps_its_numbers() -> None:
    x = torch.arange(3.0, device="cuda")
    x.resize_(5)[3:] = 7.0
    assert x.tolist() == [0.0, 1.0, 2.0, 7.0, 7.0]
    into = torch.empty(0, device="cuda")
    torch.mul(x, 2, out=into)
    assert into.tolist() == [0.0, 2.0, 4.0, 14.0, 14.0]


def test_in_inference_mode_too() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 3, device="cuda"))
    with torch.inference_mode():
        view = weight[1:]
        assert (view @ weight).sum().item() == 18.0
        assert not view.is_inference()
    (weight @ weight).sum().backward()
    assert weight.grad.is_cuda and weight.grad.sum().item() == 54.0


def test_copies_of_a_module_and_its_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    module = torch.nn.Linear(3, 2).to("cuda")
    other = copy.deepcopy(module)
    assert type(other.weight) is torch.nn.Parameter and other.weight.is_cuda and other.weight.requires_grad
    assert other.weight.data_ptr() != module.weight.data_ptr() and torch.equal(other.weight, module.weight)
    save_file(module.state_dict(), str(tmp_path / "it.safetensors"))
    loaded = load_file(str(tmp_path / "it.safetensors"), device="cpu")
    assert all(torch.equal(loaded[name], value.cpu()) for name, value in module.state_dict().items())


def test_it_is_the_amd_gpu_that_was_asked_for() -> None:
    install(gfx="gfx1151", memory_bytes=96 * GIB)
    assert torch.version.hip is not None and torch.version.cuda is None
    assert torch.cuda.get_device_properties(0).gcnArchName.startswith("gfx1151")
    assert torch.cuda.mem_get_info()[1] == 96 * GIB


def test_child_processes_have_it_and_so_have_theirs() -> None:
    child = "import torch; print(torch.cuda.get_device_name(), (torch.ones(2, device='cuda') + 1).sum().item())"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    options = environment(name="Another one")
    done = subprocess.run([sys.executable, "-c", parent], env=options, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("Another one 4.0\n", 0), done.stderr
    without = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True, text=True
    )
    assert without.stdout == "False\n"


def test_the_plugin_is_loaded_from_a_folder_of_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.pretended_gpu import building

    class LoadedError(Exception):
        pass

    def load(path: str) -> None:
        raise LoadedError(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "_compile", lambda folder, path: path.touch())
    monkeypatch.setattr(building.ctypes, "CDLL", load)
    with pytest.raises(LoadedError) as caught:
        building.load_plugin()
    folder = Path(str(caught.value)).parent
    assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(building.PluginError, match="nobody else"):
        building.load_plugin()
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(building.PluginError, match="nobody else"):
        building.load_plugin()
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(building.PluginError, match="a folder of yours"):
        building.load_plugin()
