"""The policy: what it loads, what it refuses and how, and its adapter on disk and in memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import (
    CHATML,
    LoraOptions,
    ModelOptions,
    adapter_weights,
    base_weights,
    build_tokenizer,
    disturb_adapter,
    load_policy,
    prompt,
    same_bits,
    save_model,
)

from halo_forge.config.sections import ModelSection
from halo_forge.core.errors import ModelError
from halo_forge.core.records import Prompt
from halo_forge.hardware.cpu import Cpu
from halo_forge.hardware.cuda import Cuda
from halo_forge.hardware.gfx1151 import Gfx1151
from halo_forge.hardware.machine import Machine
from halo_forge.policy import ADAPTER_FILES, Policy, adapter_digest, check_local, resolve_dtype
from halo_forge.policy.adapter import fused_adapter
from halo_forge.policy.lengths import overlong_prompts
from halo_forge.policy.packed import packed_linears

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    """A copy of the tiny Llama that a test may spoil."""
    return Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))


@pytest.fixture
def policy(tiny_models: dict[str, Path]) -> Policy:
    return load_policy(tiny_models["llama"])


def test_prompts_that_leave_no_room_for_a_completion_are_all_named(
    policy: Policy, tiny_models: dict[str, Path]
) -> None:
    model = ModelSection(model_name_or_path=str(tiny_models["llama"]))
    short, long, longer = prompt(0, "add two numbers"), prompt(1, "x " * 600), prompt(2, "x " * 700)
    room = 512 - len(policy.prompt_ids(short))
    assert overlong_prompts(model, [short], None, room).num_tokens == {}
    assert overlong_prompts(model, [short], None, room + 1).num_tokens == {short.id: 512 - room}
    found = overlong_prompts(model, [long, short, longer], None, 1)
    assert found.num_tokens == {each.id: len(policy.prompt_ids(each)) for each in (long, longer)}
    assert "2 of 3 prompts are too long" in str(found) and "512 positions" in str(found)
    assert repr(longer.id) in str(found)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU computes no bfloat16")
@pytest.mark.parametrize("name", ["llama", "qwen2"])  # without and with biases
def test_packed_weights_give_the_same_products(name: str, tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models[name], dtype="bfloat16")
    disturb_adapter(policy)
    ids = torch.tensor([policy.prompt_ids(prompt(0, "add two numbers"))])
    layers = list(policy.model.modules())
    with torch.inference_mode():
        plain = policy.model(input_ids=ids).logits.float()
        with fused_adapter(policy.model), packed_linears(policy.model):
            assert sum("forward" in module.__dict__ for module in layers) > 10
            packed = policy.model(input_ids=ids).logits.float()
            with policy.model.disable_adapter():
                bare = policy.model(input_ids=ids).logits.float()
        with policy.model.disable_adapter():
            torch.testing.assert_close(bare, policy.model(input_ids=ids).logits.float(), rtol=0.05, atol=0.5)
    assert not any("forward" in module.__dict__ for module in layers)
    torch.testing.assert_close(packed, plain, rtol=0.05, atol=0.05 * float(plain.abs().max()))
    assert torch.corrcoef(torch.stack([packed.flatten(), plain.flatten()]))[0, 1] > 0.999


def test_weights_that_are_trained_or_not_bfloat16_are_not_packed(policy: Policy) -> None:
    with packed_linears(policy.model):
        assert not any("forward" in module.__dict__ for module in policy.model.modules())


# --- tokens -------------------------------------------------------------------------------------------------


def end_of_turn(tokenizer: Any) -> str:
    from halo_forge.policy.chat_template import end_of_turn_id

    return str(tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)))


def test_the_end_of_turn_comes_from_the_template(policy: Policy) -> None:
    assert policy.end_of_turn_id == policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.end_of_turn_id in policy.stop_ids
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"  # as in the base models whose eos ends documents, not turns
    assert end_of_turn(tokenizer) == "<|im_end|>"


def test_a_template_that_refuses_the_messages_is_a_model_error(folder: Path) -> None:
    """Some templates know no system message."""
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + CHATML
    (folder / "chat_template.jinja").write_text(strict)
    policy = load_policy(folder)
    asked = prompt(0, "add")
    assert policy.render(asked)
    with pytest.raises(ModelError, match=r"system, user.*no system message") as caught:
        policy.render(Prompt("p", ({"role": "system", "content": "be brief"}, *asked.messages)))
    assert "prompts.system_prompt" in caught.value.hint


def test_without_a_special_token_after_the_answer_it_is_eos() -> None:
    plain = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"
    assert end_of_turn(build_tokenizer(chat_template=plain)) == "<|im_end|>"
    bare = build_tokenizer(chat_template=plain)
    bare.eos_token = None
    with pytest.raises(ModelError, match="no end-of-turn token"):
        end_of_turn(bare)


def test_every_eos_of_the_generation_config_stops(folder: Path) -> None:
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, 2]}))
    assert load_policy(folder).stop_ids == {0, 2}


@pytest.mark.parametrize("eos", [100_000, [2, -1], ["</s>"], True])
def test_an_eos_that_is_not_a_token_is_refused(folder: Path, eos: object) -> None:
    from halo_forge.policy.chat_template import generation_stop_ids

    policy = load_policy(folder)
    policy.model.generation_config.eos_token_id = eos
    with pytest.raises(ModelError, match=r"eos_token_id .* is not one of the model's \d+ tokens"):
        generation_stop_ids(policy.model, policy.tokenizer)


def test_render_is_the_template_and_the_response_prefix(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"], response_prefix="```c\n")
    asked = prompt(0, "add")
    text = "<|im_start|>user\nadd<|im_end|>\n<|im_start|>assistant\n```c\n"
    assert policy.render(asked) == text
    ids = policy.prompt_ids(asked)
    assert policy.tokenizer.decode(ids) == text
    assert ids.count(policy.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1  # special tokens, not their letters


# --- what cannot be used ------------------------------------------------------------------------------------


def spoil(name: str, change: Callable[[Path], None]) -> Any:
    return pytest.param(change, id=name)


def rewrite(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


def edit_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def drop_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        path.unlink()


def drop_template(folder: Path) -> None:
    for path in folder.glob("chat_template*"):
        path.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


BROKEN = [
    spoil("no config.json", lambda folder: (folder / "config.json").unlink()),
    spoil("config.json is no JSON", rewrite("config.json", b"{")),
    spoil("config.json is a list", rewrite("config.json", b"[]")),
    spoil("config.json is empty", rewrite("config.json", b"{}")),
    spoil("config.json is binary", rewrite("config.json", b"\xff\xfe\x00")),
    spoil("unknown architecture", edit_config(model_type="halo")),
    spoil("no causal language model", edit_config(model_type="vit", architectures=["ViTModel"])),
    spoil("weights of another size", edit_config(hidden_size=64)),
    spoil("no weights", lambda folder: (folder / "model.safetensors").unlink()),
    spoil("weights cut off", cut),
    spoil("weights are empty", rewrite("model.safetensors", b"")),
    spoil("weights are garbage", rewrite("model.safetensors", b"garbage" * 100)),
    spoil("no tokenizer", drop_tokenizer),
    spoil("tokenizer.json is garbage", rewrite("tokenizer.json", b"garbage")),
    spoil("tokenizer.json is another thing", rewrite("tokenizer.json", b'{"version": "1.0"}')),
    spoil("no chat template", drop_template),
    spoil("chat template is broken", rewrite("chat_template.jinja", b"{% for %}")),
    spoil("chat template raises", rewrite("chat_template.jinja", b"{{ raise_exception('no') }}")),
]


@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_folder_is_a_model_error_with_a_hint(change: Callable[[Path], None], folder: Path) -> None:
    change(folder)
    with pytest.raises(ModelError) as caught:
        load_policy(folder)
    assert str(folder) in caught.value.message
    assert len(caught.value.hint) > 10
    assert caught.value.exit_code == 2
    assert "Traceback" not in str(caught.value) and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("./nowhere", "no such folder", "existing folder"),
        ("/nowhere/at/all", "no such folder", "existing folder"),
        ("models/nowhere", "no such folder", "make model"),
        ("a/b/c", "no such folder", "existing folder"),
    ],
)
def test_a_missing_folder_is_found_without_torch(name: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_local(ModelOptions(name))
    assert name in caught.value.message and hint in caught.value.hint


def test_check_local_imports_no_torch(tiny_models: dict[str, Path]) -> None:
    script = (
        "import sys; from types import SimpleNamespace as N; from halo_forge.policy import check_local;"
        f"check_local(N(model_name_or_path={str(tiny_models['llama'])!r}, adapter=None, trust_remote_code=False));"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_hub_id_is_left_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    check_local(ModelOptions("owner/some-model"))
    check_local(ModelOptions("gpt2"))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="owner/some-model: cannot be loaded"):
        load_policy(Path("owner/some-model"))


def test_an_attention_that_is_not_installed_is_a_model_error(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as caught:
        load_policy(tiny_models["llama"], attn_implementation="flash_attention_2")
    assert caught.value.hint


def test_lora_on_layers_that_do_not_exist(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"lora\.target_modules.*no_such_layer"):
        load_policy(tiny_models["llama"], lora=LoraOptions(target_modules=["no_such_layer"]))


def test_lora_on_the_output_layer_is_refused_before_anything_is_sampled(tiny_models: dict[str, Path]) -> None:
    """The trainer cannot train it, and would say so only after the first cycle's sampling."""
    with pytest.raises(ModelError, match=r"lora\.target_modules.*lm_head"):
        load_policy(tiny_models["llama"], lora=LoraOptions(target_modules=["q_proj", "lm_head"]))


# --- the adapter --------------------------------------------------------------------------------------------


def saved(policy: Policy, folder: Path) -> Path:
    disturb_adapter(policy)
    policy.save_adapter(folder)
    return folder


def test_the_start_adapter_follows_from_the_seed_alone(tiny_models: dict[str, Path]) -> None:
    torch.manual_seed(1)
    one = load_policy(tiny_models["llama"], seed=5)
    torch.manual_seed(2)
    torch.rand(100)
    state = torch.get_rng_state()
    two = load_policy(tiny_models["llama"], seed=5)
    assert torch.equal(torch.get_rng_state(), state)  # loading leaves the process's own random numbers alone
    assert same_bits(adapter_weights(one), adapter_weights(two))
    other = load_policy(tiny_models["llama"], seed=6)
    assert not same_bits(adapter_weights(one), adapter_weights(other))


def test_a_new_adapter_changes_nothing_and_sits_on_all_linear_layers(policy: Policy) -> None:
    assert policy.adapter_norm() == 0.0 and policy.version == 0
    weights = adapter_weights(policy)
    assert len(weights) == 2 * 7 * 2  # A and B, seven projections, two layers
    assert {value.dtype for value in weights.values()} == {torch.float32}
    trainable = {name for name, value in policy.model.named_parameters() if value.requires_grad}
    assert trainable == set(weights)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        with policy.model.disable_adapter():
            base = policy.model(input_ids=ids).logits
        assert torch.equal(policy.model(input_ids=ids).logits, base)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load_are_bit_exact(dtype: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models["llama"], dtype=dtype)
    start, base = adapter_weights(policy), base_weights(policy)
    folder = saved(policy, tmp_path / "adapter")
    trained = adapter_weights(policy)
    other = load_policy(tiny_models["llama"], dtype=dtype, seed=99)
    other.load_adapter(folder, 3)
    assert other.version == 3 and same_bits(adapter_weights(other), trained)
    policy.load_adapter(None, 0)
    assert policy.version == 0 and same_bits(adapter_weights(policy), start)
    policy.load_adapter(folder, 1)
    assert same_bits(adapter_weights(policy), trained)
    assert same_bits(base_weights(policy), base)


def test_saving_twice_gives_the_same_bytes(policy: Policy, tmp_path: Path) -> None:
    saved(policy, tmp_path / "one")
    policy.save_adapter(tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(ADAPTER_FILES)
    assert adapter_digest(tmp_path / "one") == adapter_digest(tmp_path / "two")


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """Sets of names come out in another order in every process: a resumed run would seem to have another adapter."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from tiny_models import load_policy;"
        "load_policy(Path(sys.argv[2])).save_adapter(Path(sys.argv[3]))"
    )
    here = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-c", script, here, str(tiny_models["llama"]), str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})  # this process has another seed
    load_policy(tiny_models["llama"]).save_adapter(tmp_path / "here")
    assert adapter_digest(tmp_path / "here") == adapter_digest(tmp_path / "there")


def test_saving_asks_no_model_hub(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would look up the configuration of a hub model at every save: seconds, or a run without network."""
    import peft.utils.save_and_load as library

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(library, "check_file_exists_on_hf_hub", refuse)
    monkeypatch.setattr(policy.model.peft_config["default"], "base_model_name_or_path", "owner/name")
    policy.save_adapter(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == sorted(ADAPTER_FILES)


def test_peft_loads_a_saved_adapter(policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = saved(policy, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_a_run_can_start_from_an_adapter(policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    folder = saved(policy, tmp_path / "adapter")
    trained = adapter_weights(policy)
    found = load_policy(tiny_models["llama"], adapter=str(folder))
    assert found.version == 0 and same_bits(adapter_weights(found), trained)
    assert all(value.requires_grad for name, value in found.model.named_parameters() if "lora_" in name)
    found.load_adapter(None, 0)
    assert same_bits(adapter_weights(found), trained)  # v0 of this run is that adapter
    assert found.identity["adapter_sha256"] == adapter_digest(folder)


def test_an_adapter_of_another_base_model_is_refused(
    policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    folder = saved(policy, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"was trained on .*llama.*but .*qwen2") as caught:
        check_local(ModelOptions(str(tiny_models["qwen2"]), adapter=str(folder)))
    assert "base model" in caught.value.hint


@pytest.mark.parametrize("shape", [{"layers": 1}, {"hidden_size": 64}])
def test_an_adapter_of_a_model_of_the_same_name_and_another_shape(
    shape: dict[str, int], policy: Policy, tmp_path: Path
) -> None:
    folder = saved(policy, tmp_path / "adapter")
    other = save_model(tmp_path / "llama", **shape)
    with pytest.raises(ModelError) as caught:
        load_policy(other, adapter=str(folder))
    assert str(folder) in caught.value.message and caught.value.hint


def test_an_adapter_of_another_method_is_refused(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    config = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match=r"of type IA3, allowed: LORA") as caught:
        load_policy(tiny_models["llama"], adapter=str(tmp_path / "adapter"))
    assert "LoRA adapter" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_a_start_adapter_that_lacks_a_weight_is_refused(
    policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """The library would fill the gap with random weights."""
    from safetensors.torch import load_file, save_file

    weights = saved(policy, tmp_path / "adapter") / ADAPTER_FILES[1]
    found = load_file(weights)
    dropped = sorted(found)[3]
    save_file({name: value for name, value in found.items() if name != dropped}, weights)
    with pytest.raises(ModelError, match=f"{dropped} is none"):
        load_policy(tiny_models["llama"], adapter=str(tmp_path / "adapter"))


def test_a_start_adapter_of_another_rank_is_refused(
    policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    folder = saved(policy, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"has r 4, but lora\.r is 8") as caught:
        load_policy(tiny_models["llama"], adapter=str(folder), lora=LoraOptions(r=8))
    assert "4" in caught.value.hint


@pytest.mark.parametrize("missing", ADAPTER_FILES)
def test_half_an_adapter_is_refused(missing: str, policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    folder = saved(policy, tmp_path / "adapter")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        check_local(ModelOptions(str(tiny_models["llama"]), adapter=str(folder)))


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_broken_adapter_config_is_refused(
    data: bytes, policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    folder = saved(policy, tmp_path / "adapter")
    (folder / ADAPTER_FILES[0]).write_bytes(data)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        check_local(ModelOptions(str(tiny_models["llama"]), adapter=str(folder)))


def no_folder(policy: Policy, tmp_path: Path, models: dict[str, Path]) -> Path:
    return tmp_path / "nowhere"


def cut_off(policy: Policy, tmp_path: Path, models: dict[str, Path]) -> Path:
    folder = saved(policy, tmp_path / "adapter")
    (folder / ADAPTER_FILES[1]).write_bytes((folder / ADAPTER_FILES[1]).read_bytes()[:-100])
    return folder


def of_another_rank(policy: Policy, tmp_path: Path, models: dict[str, Path]) -> Path:
    return saved(load_policy(models["llama"], lora=LoraOptions(r=8)), tmp_path / "adapter")


def of_another_model(policy: Policy, tmp_path: Path, models: dict[str, Path]) -> Path:
    return saved(load_policy(save_model(tmp_path / "wide", layers=3)), tmp_path / "adapter")


def of_fewer_layers(policy: Policy, tmp_path: Path, models: dict[str, Path]) -> Path:
    return saved(load_policy(models["llama"], lora=LoraOptions(target_modules=["q_proj"])), tmp_path / "adapter")


@pytest.mark.parametrize("make", [no_folder, cut_off, of_another_rank, of_another_model, of_fewer_layers])
def test_load_adapter_refuses_what_is_not_an_adapter_of_this_run(
    make: Any, policy: Policy, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    folder = make(policy, tmp_path, tiny_models)
    with pytest.raises(ModelError) as caught:
        policy.load_adapter(folder, 1)
    assert str(folder) in caught.value.message and caught.value.hint
    assert policy.version == 0


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_adapter_norm_is_that_of_the_whole_weight_change(use_rslora: bool, tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"], lora=LoraOptions(r=4, lora_alpha=8, use_rslora=use_rslora))
    disturb_adapter(policy)
    scale = 8 / (4**0.5 if use_rslora else 4)
    weights = adapter_weights(policy)
    total = 0.0
    for name in weights:
        if "lora_A" in name:
            change = scale * weights[name.replace("lora_A", "lora_B")].double() @ weights[name].double()
            total += float(change.square().sum())
    assert policy.adapter_norm() == pytest.approx(total**0.5, rel=1e-12)
    assert policy.adapter_norm() > 1


# --- dtype and identity -------------------------------------------------------------------------------------


def test_dtype_auto_is_bfloat16_where_the_cpu_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (({"avx512_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)):
        monkeypatch.setattr(Machine, "cpu_flags", lambda self, flags=flags: flags)
        assert resolve_dtype("auto", Cpu(Machine(), "a test")) is expected
    for name in ("float32", "bfloat16", "float16"):
        assert resolve_dtype(name, Cpu(Machine(), "a test")) is getattr(torch, name)


def test_dtype_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert resolve_dtype("auto", Cuda(Machine(), "a test")) is expected
        assert resolve_dtype("auto", Gfx1151(Machine(), "a test")) is torch.bfloat16


def test_the_base_is_in_the_dtype_asked_for(tiny_models: dict[str, Path]) -> None:
    for name in ("bfloat16", "float32"):
        policy = load_policy(tiny_models["llama"], dtype=name)
        assert {value.dtype for value in base_weights(policy).values()} == {getattr(torch, name)}


@pytest.mark.parametrize("position", [200, -4])
def test_the_identity_changes_with_a_weight_file(position: int, folder: Path) -> None:
    before = load_policy(folder).identity
    assert load_policy(folder).identity == before
    assert before["model_name_or_path"] == str(folder) and len(before["sha256"]) == 64
    weights = bytearray((folder / "model.safetensors").read_bytes())
    header = int.from_bytes(weights[:8], "little") + 8
    weights[header + 5 if position > 0 else position] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert load_policy(folder).identity["sha256"] != before["sha256"]


def test_the_identity_changes_with_the_chat_template(folder: Path) -> None:
    """Another template asks another question, and may end a turn with another token."""
    before = load_policy(folder).identity
    (folder / "chat_template.jinja").write_text(CHATML.replace("assistant", "model"))
    assert load_policy(folder).identity["sha256"] != before["sha256"]
