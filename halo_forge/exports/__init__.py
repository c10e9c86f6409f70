"""Exports: a tuned model as something to serve, which proves itself by being asked again.

export.py      the verb: makes every kind, proves it, describes it, and seals it by a rename
source.py      what is exported: a run's version or an adapter, with all that its card says
weights.py     merged weights, GGUF files and adapters as GGUF
llama_cpp.py   llama.cpp's own programs, wherever they are; _xllamacpp_server.py is its server by a package
served.py      llama.cpp's server on a GGUF file, started and stopped here
proof.py       asks dev or test again of the exported thing, and compares it with the adapter, prompt by prompt
surprise.py    how likely the adapter finds what the export wrote
modelfile.py   Ollama's Modelfile: template, stop strings and sampling settings as the run used them
card.py        the model card
samples.py     the samples that a version was trained on, as a data set
push.py        uploads an export to a hub, where it is told to
"""
