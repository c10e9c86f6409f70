"""Runs one untrusted command under limits and reports exactly how it ended.

The process that trains never forks, because it may hold many gigabytes and many threads.  It starts one small launcher
process per worker (`launcher`), which forks, limits, monitors and cleans up after one command at a time.

Isolation levels, best first; the level is chosen once (`ladder`), by running a program at it, and is never lowered:

`namespace`  User, process id, mount, network, IPC and UTS namespaces (`rootfs`, `namespace_backend`): jobs see the
             system's directories read-only, a private /proc, /dev and temporary directory, and nothing else.  Landlock
             and a system call filter are added where the kernel supports them.
`landlock`   Jobs run among the host's processes (`host_backend`), but can open only the system's directories and their
             own (`landlock`), signal only themselves (`signal_broker` on older kernels), and use no network
             (`seccomp`).
`limits`     Resource limits, a clean environment, a fresh directory, and no surviving processes: no protection against
             a program that reads this user's files, uses the network or signals this user's processes.  Must be named.

All levels share the host's kernel: a hole in the kernel is a hole in every level.

Modules for callers: `job` (the values and the `Sandbox` protocol), `local` (`open_sandbox`), `ladder` (`probe_ladder`),
`self_test`.  The launcher's own: `launcher`, `backend`, `host_backend`, `namespace_backend`, `rootfs`, `child_setup`,
`monitor`, `signal_broker`, `reaper`, `processes`, `workdir`, `landlock`, `seccomp`, `syscalls`, `wire`.  They import
only the standard library, and this file imports nothing at all, so a launcher starts within milliseconds and stays
small.
"""
