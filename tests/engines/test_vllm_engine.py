"""What can be told about the engine without vLLM and a GPU: what it asks for, and that it says what is missing."""

from __future__ import annotations

import importlib.util

import pytest
from tiny_models import request

from halo_forge.engines.vllm import VllmSpec, sampling_fields
from halo_forge.errors import ToolMissing


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed here")
def test_the_missing_package_is_told() -> None:
    with pytest.raises(ToolMissing, match="package vllm cannot be imported") as caught:
        VllmSpec().open(None)  # type: ignore[arg-type]
    assert "pip install 'halo-forge[vllm]'" in caught.value.hint


def test_a_request_in_vllms_words() -> None:
    asked = request("p0", seed=2**31 + 5, temperature=0.7, top_p=0.9, max_new_tokens=64)
    assert sampling_fields(asked, ("}",), frozenset({2, 1})) == {
        "max_tokens": 64,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": 5,
        "stop": ["}"],
        "stop_token_ids": [1, 2],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }
