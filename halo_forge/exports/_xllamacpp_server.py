"""llama.cpp's own HTTP server by the package xllamacpp, with the options of `llama-server` that an export uses.

Run by the interpreter that the package is installed for, so it imports nothing of halo-forge.
"""

from __future__ import annotations

import argparse
import threading

import xllamacpp  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lora")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    parameters = xllamacpp.CommonParams()
    parameters.model.path = given.model
    parameters.n_ctx, parameters.n_parallel = given.ctx_size, given.parallel
    parameters.hostnames, parameters.port = [given.host], given.port
    parameters.cpuparams.n_threads = given.threads
    if given.lora is not None:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(given.lora, 1.0)]
    server = xllamacpp.Server(parameters)  # which serves until it is collected
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
