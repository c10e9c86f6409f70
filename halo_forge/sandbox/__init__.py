"""Run one untrusted command, under limits, and tell exactly what became of it.

The process that trains never forks: it may hold many gigabytes and many threads.  It starts one small launcher per
worker (`launcher`), which forks, limits, watches and cleans up after one command at a time.

Modules: `job` (the values and the `Sandbox` protocol), `local` (the sandbox of this machine), and the launcher's own:
`launcher`, `jail`, `watch`, `processes`, `box`, `wire`.  The launcher's modules import nothing but the standard
library, and this file imports nothing at all, so that a launcher starts within milliseconds and stays small.

The isolation ladder has one rung so far, `limits`: resource limits, a clean environment, a fresh directory and no
survivors.  It is no protection against a program that reads this user's files, uses the network, or signals this
user's processes.  Stronger rungs implement the same `Sandbox` protocol and say so in `level`.
"""
