"""Run one untrusted command, under limits, and tell exactly what became of it.

The process that trains never forks: it may hold many gigabytes and many threads.  It starts one small launcher per
worker (`launcher`), which forks, limits, watches and cleans up after one command at a time.

The isolation ladder, best rung first; it is chosen once (`ladder`), by running a program under it, and never lowered:

`namespace`  User, process id, mount, network, IPC and UTS namespaces (`world`, `namespace_cell`): jobs see the system's
             directories read-only, a /proc, /dev and temporary directory of their own, and nothing else.  Landlock and
             a filter of system calls come on top where the kernel has them.
`landlock`   Jobs run among the host's processes (`host_cell`), but may open only the system's directories and their
             own (`landlock`), signal only themselves (`referee` on older kernels), and make no network (`seccomp`).
`limits`     Resource limits, a clean environment, a fresh directory and no survivors: no protection against a program
             that reads this user's files, uses the network, or signals this user's processes.  By name only.

All of them share the host's kernel: a hole in it is a hole in every rung.

Modules for callers: `job` (the values and the `Sandbox` protocol), `local` (`open_sandbox`), `ladder` (`probe_ladder`),
`self_test`. The launcher's own: `launcher`, `cell`, `host_cell`, `namespace_cell`, `world`, `jail`, `watch`, `referee`,
`keeper`, `processes`, `box`, `landlock`, `seccomp`, `syscalls`, `wire`; they import nothing but the standard library,
and this file imports nothing at all, so that a launcher starts within milliseconds and stays small.
"""
