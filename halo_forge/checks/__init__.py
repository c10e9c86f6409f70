"""Checking without training: programs by a verifier, stored verdicts under other rewards, task files, runs compared.

programs.py     source files and JSONL completions become what a verifier takes, and their verdicts
rescore.py      the stored verdicts of a run under other rewards; runs no program
tasks.py        a task file is proven: references pass, wrong solutions fail
weaknesses.py   what a task file's text and tests say about it without running anything
arms.py         runs read for a comparison: arms of several seeds, and the version that each run is judged by
series.py       arms and runs version by version, with intervals and bands over seeds
compared.py     runs side by side: differences, and the settings that differ
"""
