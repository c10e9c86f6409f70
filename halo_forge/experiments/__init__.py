"""Experiments: arms with the same question, compared over seeds (docs/experiments.md).

file.py      the experiment file: base configuration, arms or grid, seeds, comparisons
plan.py      what an experiment will do and cost, and whether it can answer its question; evidence.py: of earlier runs
report.py    a verdict for each hypothesis, and the arms in order
"""
