"""`halo-forge report`: the page of a run as one HTML file, or served on loopback while the run goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from halo_forge.cli.raft import JSON

RUN = typer.Argument(metavar="RUN", help="Run directory (the output_dir of a run).", show_default=False)
OUTPUT = typer.Option(None, "-o", "--output", metavar="FILE", help="Default: report.html in RUN.")


def report(
    run: Path = RUN,
    output: Path | None = OUTPUT,
    serve: bool = typer.Option(
        False, "--serve", help="Serve the page on this machine; it follows a running run. Ctrl-C ends it."
    ),
    port: int | None = typer.Option(
        None, "--port", metavar="PORT", min=1, max=65535, help="For --serve; default: a free one."
    ),
    as_json: bool = JSON,
) -> None:
    """Write the page of a run: one HTML file with charts, decisions and samples that opens without a network."""
    from halo_forge.core.errors import ConfigError

    if serve and (output is not None or as_json):
        raise ConfigError("--serve writes no file", "drop -o and --json, or drop --serve")
    if port is not None and not serve:
        raise ConfigError("--port is only for --serve", "add --serve")
    if serve:
        _serve(run, 0 if port is None else port)
        return
    from halo_forge.pages.make import run_html

    path = run / "report.html" if output is None else output
    text = run_html(run)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name another file with -o") from error
    if as_json:
        print(json.dumps({"file": str(path), "bytes": len(text.encode())}, indent=2))
        return
    print(f"{path} ({len(text.encode()) / 1e6:.1f} MB)")


def _serve(run: Path, port: int) -> None:
    from halo_forge.pages.make import run_html, run_state
    from halo_forge.pages.serve import ADDRESS, Page, open_server

    page = Page(lambda state: run_html(run, state=state), lambda: run_state(run))
    page.html()  # what is wrong with the run is said here, not in the browser
    with open_server(page, port) as server:
        print(f"http://{ADDRESS}:{server.server_port}/", flush=True)
        print("Ctrl-C ends it.", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("No longer served.", file=sys.stderr)
