"""`halo-forge export`: a tuned model as something to serve, or its samples as a data set."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halo_forge.cli.raft import JSON

if TYPE_CHECKING:
    from halo_forge.exports.export import Exported
    from halo_forge.exports.weights import Quantization

WHAT = typer.Argument(
    metavar="RUN|ADAPTER", help="Run (its chosen version), RUN@v2, or folder of a LoRA adapter.", show_default=False
)
TO = typer.Option(..., "--to", metavar="KIND", help="merged, gguf, lora-gguf or samples.", show_default=False)
QUANTIZE = typer.Option(None, "--quantize", metavar="TYPE", help="Of a GGUF: bf16 (default), f16, q8_0 or q4_k_m.")
OUTPUT = typer.Option(None, "-o", "--output-dir", metavar="DIR", help="Default: exports/NAME in the working directory.")
CONFIG = typer.Option(
    None, "--config", metavar="CONFIG", help="For an adapter without its run: prompts, verifier, sampling settings."
)
LLAMA_CPP = typer.Option(
    None,
    "--llama-cpp",
    metavar="DIR",
    help="A checkout of llama.cpp or a Python environment with it, several separated by ':'; default:"
    " HALO_FORGE_LLAMA_CPP, the PATH, halo-forge's own environment.",
)
SET_MODEL = typer.Option(
    None, "--set", metavar="KEY=VALUE", help="Override a key of the model section, such as model.dtype=float32."
)


def export(
    what: str = WHAT,
    to: str = TO,
    quantize: str | None = QUANTIZE,
    output: Path | None = OUTPUT,
    on: str = typer.Option("dev", "--on", metavar="SET", help="Prompts of the proof: dev or test."),
    no_proof: bool = typer.Option(False, "--no-proof", help="Ask nothing; the card then says that it is not proved."),
    force: bool = typer.Option(False, "--force", help="Export also what the proof finds to be worse."),
    llama_cpp: str | None = LLAMA_CPP,
    config: Path | None = CONFIG,
    overrides: list[str] | None = SET_MODEL,
    licence: str | None = typer.Option(None, "--license", metavar="ID", help="Licence to state, such as apache-2.0."),
    push: str | None = typer.Option(
        None, "--push", metavar="OWNER/NAME", help="Upload the finished export to the Hugging Face Hub (private)."
    ),
    as_json: bool = JSON,
) -> None:
    """Export a tuned model, ask it dev again, and compare it with the adapter; or export what it was trained on."""
    from halo_forge.core.errors import ConfigError

    kinds = ("merged", "gguf", "lora-gguf", "samples")
    if to not in kinds:
        raise ConfigError(f"--to {to}: allowed: {', '.join(kinds)}", "choose one of these")
    if on not in ("dev", "test"):
        raise ConfigError(f"--on {on}: allowed: dev, test", "choose one of these")
    if licence is not None and re.fullmatch(r"[\w.-]+", licence) is None:
        raise ConfigError(
            f"--license {licence}: allowed: an identifier of letters, digits, '.', '-' and '_'",
            "write it as a model hub does, such as apache-2.0, mit or other",
        )
    if to == "samples":
        unused = {"--quantize": quantize, "--config": config, "--set": overrides, "--llama-cpp": llama_cpp}
        given = [*(name for name, value in unused.items() if value is not None), *(["--force"] if force else [])]
        if given:
            raise ConfigError(f"--to samples uses no {' and no '.join(given)}", "drop it")
        from halo_forge.exports.export import export_samples

        done = export_samples(what, output, licence)
    else:
        from halo_forge.cli.observer import PlainObserver
        from halo_forge.exports.export import Order
        from halo_forge.exports.export import export as export_model

        order = Order(
            what,
            to,  # type: ignore[arg-type]  # checked above
            _quantization(quantize),
            out=output,
            on=None if no_proof else on,
            force=force,
            llama_cpp=llama_cpp,
            config=config,
            model=_model_keys(overrides),
            licence=licence,
        )
        done = export_model(order, PlainObserver())
    address = None
    if push is not None:
        from halo_forge.exports.push import push as upload

        address = upload(done.folder, push, is_data_set=to == "samples")
    _print(done, address, as_json)


def _quantization(text: str | None) -> Quantization:
    from halo_forge.core.errors import ConfigError
    from halo_forge.exports.weights import QUANTIZATIONS

    for known in QUANTIZATIONS:
        if text in (None, known):
            return known
    raise ConfigError(f"--quantize {text}: allowed: {', '.join(QUANTIZATIONS)}", "choose one of these")


def _model_keys(overrides: list[str] | None) -> dict[str, Any] | None:
    """The keys of the `model` section that `--set` names."""
    from halo_forge.config.yaml_io import parse_value
    from halo_forge.core.errors import ConfigError

    found = {}
    for text in overrides if overrides is not None else ():
        key, equals, value = text.partition("=")
        if not equals or not key.startswith("model."):
            raise ConfigError(
                f"--set {text}: allowed here: keys of the model section, such as model.dtype=float32",
                "an export asks as its run did, so nothing else can be set",
            )
        found[key.removeprefix("model.")] = parse_value(value, f"--set {key}")
    return found or None


def _print(done: Exported, address: str | None, as_json: bool) -> None:
    from halo_forge.cli.render import Column, print_paragraph, print_table, stdout

    record = done.record
    if as_json:
        print(json.dumps({"folder": str(done.folder), "is_new": done.is_new, **record, "pushed_to": address}, indent=2))
        return
    console = stdout()
    if not done.is_new:
        print("it was complete already, and nothing was made again", file=sys.stderr)
    proof = record.get("proof")
    if proof is not None and proof["comparisons"]:
        rows = proof["comparisons"]
        columns = [
            Column("metric", list(rows), align="left"),
            *(Column(name, [f"{row[name]:.3f}" for row in rows.values()]) for name in ("adapter", "exported")),
            Column("difference", [f"{row['difference']:+.3f}" for row in rows.values()]),
            Column("95% interval", [f"{row['low']:+.3f} to {row['high']:+.3f}" for row in rows.values()]),
        ]
        print_table(columns, console=console, title=f"{proof['set_name']}, exported against the adapter")
    if proof is not None:
        print_paragraph(console, f"{proof['state'].replace('_', ' ')}: {proof['reason']}", indent="    ")
    rounding = record.get("rounding")
    if rounding and rounding["dtype"] != "float32":
        lost = f"rounding to {rounding['dtype']} lost {rounding['lost']:.1%} of the update"
        print_paragraph(console, f"{lost}; {rounding['vanished']:.1%} of its entries change no weight")
    if "num_rows" in record:
        print_paragraph(console, f"{record['num_rows']} samples, of {record['num_trained']} that were trained on")
    for name, file in record["files"].items():
        print_paragraph(console, f"{done.folder / name} ({file['bytes'] / 1e6:,.1f} MB)")
    if address is not None:
        print_paragraph(console, f"uploaded to {address}")
