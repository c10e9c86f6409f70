"""Run by `bench_generation.py --against openvino` with the Python of the other environment: OpenVINO GenAI.

Standard input is one JSON object: `model` (an exported folder), `adapter` (safetensors), `prompts` (lists of token
ids), `samples` per prompt, `new_tokens`, `stop_ids`, `sequences` (the most in flight) and `warm_up` (prompts that are
sampled first, untimed).  For every line that follows, the work is done once, and one JSON object goes to standard
output: `tokens` (sampled, including the end of turn) and `seconds`.
"""

import json
import sys
import time

import numpy
import openvino
import openvino_genai


def main() -> None:
    work = json.loads(sys.stdin.readline())
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2  # GB
    scheduler.max_num_seqs = work["sequences"]
    scheduler.max_num_batched_tokens = 1024
    scheduler.dynamic_split_fuse = False
    adapter = openvino_genai.AdapterConfig([openvino_genai.Adapter(work["adapter"])])
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        work["model"], scheduler, "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.bf16, "adapters": adapter}
    )

    def ask(prompts: list[list[int]], seed: int) -> int:
        inputs, every = [], []
        for number, ids in enumerate(prompts):
            settings = openvino_genai.GenerationConfig()
            settings.do_sample, settings.temperature, settings.top_p = True, 1.0, 1.0
            settings.top_k = sys.maxsize
            settings.num_return_sequences = work["samples"]
            settings.max_new_tokens = work["new_tokens"]
            settings.stop_token_ids = set(work["stop_ids"])
            settings.rng_seed = seed + number
            settings.adapters = adapter
            every.append(settings)
            inputs.append(openvino.Tensor(numpy.array([ids], dtype=numpy.int64)))
        # Not `add_request` and `step`, which ignore the adapter.
        done = pipeline.generate(inputs, every)
        return sum(len(ids) for result in done for ids in result.m_generation_ids)

    ask(work["prompts"][: work["warm_up"]], 10_000)
    print("{}", flush=True)
    for number, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        tokens = ask(work["prompts"], 1_000 * number)
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
