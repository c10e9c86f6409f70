"""Evaluations: what models, adapters, runs and servers achieve on task sets, and how any two of them differ.

subject.py    what is measured: one text of the command line as a model, an adapter, a run's version or a server
ask.py        asks one subject every prompt of a set, verifies the completions, and seals both
models.py     the models in memory: subjects on the same base share it, and only the adapter is replaced
served.py     a server's model: how its prompts are rendered, without its weights
"""
