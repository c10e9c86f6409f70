"""Experiments: arms with the same question, compared over seeds (docs/experiments.md).

file.py      the experiment file: base configuration, arms or grid, seeds, comparisons
"""
