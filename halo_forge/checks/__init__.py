"""Checking without training: files and completions by a verifier, stored verdicts under other rewards, and task files.

programs.py     source files and JSONL completions become what a verifier takes, and their verdicts
rescore.py      the stored verdicts of a run under other rewards; runs no program
tasks.py        a task file is proven: references pass, wrong solutions fail
weaknesses.py   what a task file's text and tests say about it without running anything
"""
