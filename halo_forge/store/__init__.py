"""The run directory: the only truth about a run.

files.py     write to a temporary name, fsync, rename; append lines; cut a torn tail
lock.py      one writer a directory; the lock dies with its process
folder.py    a stage exists if and only if its final name exists
run.py       the run directory: identity, attempts, events, pointers
status.py    what a run directory says about itself, for `raft status` and the live table
"""
