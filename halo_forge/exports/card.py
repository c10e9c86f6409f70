"""The model card: what was trained on what, how it was judged, which version was chosen and why, and the proof."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.core.wording import counted, visible
from halo_forge.exports.proof import Proof
from halo_forge.exports.source import Source, prompt_origins
from halo_forge.exports.weights import Kind, Quantization
from halo_forge.store.files import as_written, read_json
from halo_forge.store.run import cycle_folder
from halo_forge.store.sft import SftSource, sft_source

HOW_TO_PROVE = (
    "install llama.cpp's server (`pip install xllamacpp`) or name a checkout that is built (`--llama-cpp DIR`), remove"
    " this folder, and run the same command again"
)


@dataclass(frozen=True)
class Made:
    """What an export holds, for its card.

    Attributes:
        files: Name -> size in bytes, of the model's files.
        rounding: See `weights.rounding_of`; None where nothing was merged.
        notes: What llama.cpp said that a reader should know.
        modelfile: Whether there is a Modelfile.
    """

    kind: Kind
    quantization: Quantization
    files: Mapping[str, int]
    rounding: Mapping[str, Any] | None
    notes: Sequence[str]
    modelfile: bool


def base_licence(base: Path) -> str | None:
    """The licence that the base model's own card states in its folder; None where it states none."""
    import yaml

    path = base / "README.md"
    if not path.is_file():
        return None
    head = path.read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        found = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
    except yaml.YAMLError:  # a card that nobody can read states nothing
        found = None
    licence = found.get("license") if isinstance(found, dict) else None
    # It goes into the metadata of this card: a text that is no identifier could bring other keys with it.
    return licence if isinstance(licence, str) and re.fullmatch(r"[\w.-]+", licence, re.ASCII) is not None else None


def code(text: str) -> str:
    """A text as inline code of Markdown: whatever is in it, nothing of it acts on the page."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def shown_base(source: Source) -> str:
    """The base as a card names it: its hub id, or the name of its folder, since a path says who made this and where."""
    return Path(source.base).name if Path(source.base).expanduser().is_dir() else source.base


def model_card(source: Source, made: Made, proof: Proof, licence: str | None, base_licence: str | None) -> str:
    """README.md of an export, with the metadata that model hubs read.

    Args:
        licence: Of the exported model, as the user states it.
        base_licence: What the base model's own card states.
    """
    parts = [
        _metadata(source, made, licence if licence is not None else base_licence),
        [f"# {source.stem}", "", *_what(source, made)],
        ["## Proof", "", *_proof(proof)],
        ["## Training", "", *_training(source)],
        ["## How it was judged", "", *_judged(source)],
        ["## Use", "", *_use(source, made)],
        ["## Licences", "", *_licences(source, licence, base_licence)],
    ]
    return "\n\n".join(visible("\n".join(part)) for part in parts) + "\n"


def _metadata(source: Source, made: Made, licence: str | None) -> Iterator[str]:
    yield "---"
    if licence is not None:
        yield f"license: {licence}"
    if not Path(source.base).expanduser().is_dir():
        yield f"base_model: {source.base}"
        yield f"base_model_relation: {'adapter' if made.kind == 'lora-gguf' else 'finetune'}"
    yield "pipeline_tag: text-generation"
    if made.kind == "merged":
        yield "library_name: transformers"
    how = "raft" if source.subject.run is not None else "sft" if _stage(source.adapter) is not None else "lora"
    tags = ["code", "halo-forge", how, *(["gguf"] if made.kind != "merged" else [])]
    yield f"tags: [{', '.join(tags)}]"
    yield "---"


def _what(source: Source, made: Made) -> Iterator[str]:
    kinds = {
        "merged": "the base model with the adapter added to its weights, in bfloat16",
        "gguf": f"the same as a GGUF file for llama.cpp and Ollama, in {made.quantization}",
        "lora-gguf": f"the LoRA adapter as a GGUF file in {made.quantization}, to be applied to the base model's",
    }
    yield f"{code(shown_base(source))}, {_tuned(source)}: {kinds[made.kind]}."
    yield ""
    for name, size in made.files.items():
        yield f"- `{name}`: {size / 1e6:,.1f} MB"
    if made.rounding is not None and made.rounding["dtype"] != "float32":
        yield ""
        yield (
            f"The adapter was added in float32 and the sum rounded to {made.rounding['dtype']}. Rounding lost"
            f" {made.rounding['lost']:.1%} of the update (norm of the difference over norm of the update), and"
            f" {made.rounding['vanished']:.1%} of its entries change no weight. The adapter itself loses nothing."
        )
    for note in made.notes:
        yield ""
        yield note


def _stage(adapter: str | Path | None) -> SftSource | None:
    """The SFT run that an adapter is from."""
    return None if adapter is None else sft_source(Path(adapter))


def _tuned(source: Source) -> str:
    if source.subject.run is not None:
        return f"tuned by RAFT with halo-forge {halo_forge.__version__}"
    if _stage(source.adapter) is not None:
        return f"tuned by supervised fine-tuning (SFT) with halo-forge {halo_forge.__version__}"
    return f"with a LoRA adapter, exported by halo-forge {halo_forge.__version__}"


def _before(source: Source) -> Iterator[str]:
    """What the run did not start from the plain base model with."""
    start = None if source.config is None else source.config.model.adapter
    if start is None:
        return
    yield ""
    stage = _stage(start)
    if stage is None:
        yield f"It started from another LoRA adapter ({code(Path(start).name)}), whose training is not known here."
    else:
        yield f"It started from an adapter of supervised fine-tuning (SFT): {_supervised(stage)}."


def _supervised(stage: SftSource) -> str:
    data = stage.settings.get("data")
    rows = data.get("train") if isinstance(data, dict) else None
    where = "" if not isinstance(rows, str) else f" on the rows of {code(Path(rows).name)}"
    return f"halo-forge's run {code(stage.root.name)}{where}, peak learning rate {stage.learning_rate:.2e}"


def _proof(proof: Proof) -> Iterator[str]:
    if proof.state == "not_proved":
        yield f"**Not proved**: {proof.reason}"
        return
    words = {
        "held": "**Proved**: the exported model was asked again, and no fall was found.",
        "fell": "**It fell**: the exported model is worse than the adapter, and was exported with `--force`.",
        "cannot_tell": "**Not proved**: the exported model was asked again, but there are too few samples to tell.",
    }
    yield words[proof.state]
    yield ""
    yield (
        f"{proof.asked_by} and the adapter by transformers answered the same {proof.set_name} prompts with"
        f" {counted(proof.samples_per_prompt or 0, 'sample')} each at temperature {proof.temperature:g}, with seeds"
        " that nothing was chosen by. Differences are paired by prompt."
    )
    yield ""
    yield from _table(
        proof.comparisons,
        ("metric", "adapter", "exported", "difference", "95% interval", "detectable"),
        lambda row: [f"{row['adapter']:.3f}", f"{row['exported']:.3f}"],
    )
    yield ""
    yield f"Decided by {proof.reason}."


def _table(comparisons: Mapping[str, Mapping[str, float]], header: Sequence[str], first: Any) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for name, row in comparisons.items():
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        detectable = row.get("minimum_detectable_effect")
        last = [f"{row['difference']:+.3f}", interval, "" if detectable is None else f"{detectable:.3f}"]
        yield f"| {' | '.join([name, *first(row), *last])} |"


def _training(source: Source) -> Iterator[str]:
    run, lora = source.subject.run, source.lora()
    named = lora.get("target_modules") or []
    modules = named if isinstance(named, str) else ", ".join(sorted(named))
    shape = f"rank {lora.get('r')}, alpha {lora.get('lora_alpha')}, on {modules}"
    if run is None or source.config is None:
        stage = _stage(source.adapter)
        unknown = "How it was trained is not known here: it was exported without its run."
        yield f"A LoRA adapter ({shape}). {unknown if stage is None else f'SFT: {_supervised(stage)}.'}"
        return
    lineage = source.lineage()
    rates, num_rows = [], 0
    for cycle in reversed(lineage):
        with as_written(path := cycle_folder(run, cycle) / "settings.json"):
            rates.append(f"{read_json(path)['learning_rate']:.2e}")
        with as_written(path := cycle_folder(run, cycle) / "trained.json"):
            num_rows += int(read_json(path)["num_rows"])
    yield (
        "RAFT: in each cycle the model wrote programs, a verifier compiled and tested them, and a LoRA adapter"
        f" ({shape}) was trained on those that were kept. This is version {source.subject.version}, made by"
        f" {counted(len(lineage), 'cycle')} on {counted(num_rows, 'kept sample')}; peak learning rates"
        f" {', '.join(rates)}; seed {source.identity.get('seed')}."
    )
    yield from _before(source)
    yield ""
    yield f"`halo-forge export {run.name} --to samples` writes these samples as a data set."


def _judged(source: Source) -> Iterator[str]:
    config = source.config
    if config is None or source.subject.run is None:
        yield "Not known: it was exported without its run."
        return
    verifier, evaluation = config.verifier, config.evaluation
    isolation = (source.identity.get("toolchain") or {}).get("isolation")
    compiler = (source.identity.get("toolchain") or {}).get("version")
    yield (
        f"By verifier `{verifier.language}` (stages {', '.join(verifier.stages)}; {compiler}; isolation {isolation}),"
        f" with {counted(evaluation.samples_per_prompt, 'sample')} for each prompt at temperature"
        f" {evaluation.temperature:g}."
    )
    yield ""
    result = source.result
    version = source.subject.version
    if not result:
        yield "The run is not finished: nothing is concluded."
        return
    chosen = result["chosen_version"]
    if chosen == version:
        yield f"Version {version} was chosen on dev: {result['reason']}."
    else:
        yield f"**The run chose version {chosen}, not this one.** {result['reason']}."
    yield ""
    yield f"The run concludes: {result['conclusion'].replace('_', ' ')}."
    which = {result["last_version"]: ("last_", "last"), chosen: ("", "chosen")}
    if version not in which:
        return
    prefix, name = which[version]
    for set_name in ("dev", "test"):
        if rows := result[f"{prefix}{set_name}"]:
            yield ""
            yield f"{set_name} against the start model, paired by prompt:"
            yield ""
            yield from _table(
                rows,
                ("metric", "start model", "this version", "difference", "95% interval", "detectable"),
                lambda row: [f"{row['start']:.3f}", f"{row[name]:.3f}"],
            )
    yield ""
    yield "Dev also chose the version, so its differences are biased upwards; test was asked once, at the end."


def _use(source: Source, made: Made) -> Iterator[str]:
    settings = source.settings
    if made.modelfile:
        yield "With Ollama, in this folder: `ollama create NAME -f Modelfile`."
        yield ""
    if made.kind == "lora-gguf":
        yield (
            "The base model as `base.gguf` comes from llama.cpp's converter:"
            f" `python convert_hf_to_gguf.py BASE --outtype bf16 --outfile base.gguf`, with BASE the folder of"
            f" {code(shown_base(source))}; then `llama-server -m base.gguf --lora {next(iter(made.files))}`."
        )
        yield ""
    if made.kind == "merged":
        yield "With transformers: `AutoModelForCausalLM.from_pretrained(FOLDER)` and its tokenizer's chat template."
        yield ""
    if settings is not None:
        prefix = settings.response_prefix
        yield (
            f"It was trained and judged with these settings: temperature {settings.temperature:g}, top_p"
            f" {settings.top_p:g}, at most {settings.engine.max_new_tokens} new tokens, stop strings"
            f" {code(repr(list(settings.engine.stop)))}, response prefix {code(repr(prefix))} (the assistant's message"
            f" begins with it), system prompt"
            f" {code(repr(None if source.config is None else source.config.prompts.system_prompt))}."
        )
        yield ""
    yield "What it writes is untrusted: run it in a sandbox."


def _licences(source: Source, licence: str | None, base_licence: str | None) -> Iterator[str]:
    is_local = Path(source.base).expanduser().is_dir()
    unknown = "not stated in its folder" if is_local else "see its page on the hub"
    stated = f"{unknown}; look it up before you publish this" if base_licence is None else base_licence
    yield f"- base model {code(shown_base(source))}: {stated}"
    if licence is not None:
        yield f"- this model: {licence}, as stated by who exported it"
    if source.config is not None and source.subject.run is not None:
        for name, origin, terms in prompt_origins(source.config):
            yield f"- {name} prompts, from {origin}: {terms}"
