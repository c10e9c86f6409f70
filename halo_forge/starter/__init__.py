"""From a model and some tasks to a first configuration: `halo-forge init`, and the demo.

small_model.py   the demo's model: downloaded from the package index, without a model hub
quickstart.yaml  the demo's configuration
"""
