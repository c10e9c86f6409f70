"""Supervised fine-tuning before RAFT: the same trainer on given completions, in segments that are sealed one by one.

`run.py` reads as the algorithm.  `raft` starts from its result with `model.adapter: runs/NAME/best`.
"""
