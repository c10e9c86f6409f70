"""The run directory: the only record of a run.

files.py     write to a temporary name, fsync, rename; append lines; cut an incomplete last line
lock.py      one writer per directory; the lock ends with its process
folder.py    a stage exists if and only if its final name exists
run.py       the run directory: identity, attempts, events, pointers
samples.py   completions with their verdicts, and what became of them
rows.py      the same, steps and decisions as plain dicts
shared.py    what a run took from other runs
status.py    the state of a run, read from its directory, for `raft status` and the live table
"""
