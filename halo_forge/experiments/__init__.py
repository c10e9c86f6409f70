"""Experiments: arms with the same question, compared over seeds (docs/experiments.md).

file.py      the experiment file: base configuration, arms or grid, seeds, comparisons
plan.py      what an experiment will do and cost, and whether it can answer its question; evidence.py: of earlier runs
execute.py   runs every arm with every seed, each in a child process; devices.py: what each child runs on
progress.py  how far it is, read from its run directories
report.py    a verdict for each hypothesis, and the arms in order
"""
