"""From a model and some tasks to a first configuration: `halo-forge init`, and the demo.

init.py          what was said becomes a checked file, written where nothing was
model.py         what can be seen of a model before anything is loaded
prompts.py       the three sets of prompts, their language and their tests
estimate.py      time and memory, by arithmetic
size.py          how large a run fits into the time
choose.py        every value with its reason
write.py         the file as text
small_model.py   the demo's model: downloaded from the package index, without a model hub
quickstart.yaml  the demo's configuration
"""
