"""Programs that reach for what is outside their workdir: other processes, files, the network, the kernel.

What they may find is told to them in the environment: VICTIM and LAUNCHER (process ids), CANARY (a directory that
every user may read and write, with a file `note`), REAL_HOME, TCP_PORT, UDP_PORT and ABSTRACT (listening sockets).
Whether they got there is judged from outside: in a namespace of its own a program may well kill, write and connect.
"""

from __future__ import annotations

from hostile_programs import PRELUDE, Ending, Program, attempts, main_of

_ANY: tuple[Ending, ...] = ("ok", "exit", "SIGKILL", "SIGABRT", "cpu", "wall")
_WALK = r"""
DIR *all = opendir("/proc"); struct dirent *e; char path[300];
while (all && (e = readdir(all))) {
    snprintf(path, sizeof path, "/proc/%s/environ", e->d_name); show(path);
    snprintf(path, sizeof path, "/proc/%s/cwd/note", e->d_name); show(path);
    snprintf(path, sizeof path, "/proc/%s/root/etc/shadow", e->d_name); show(path);
}
"""
_SIGNALS = r"""
pid_t victims[] = {atoi(getenv("VICTIM")), atoi(getenv("LAUNCHER")), getppid()};
for (int i = 0; i < 3; i++) {
    if (victims[i] <= 1) continue;
    kill(victims[i], SIGKILL); syscall(SYS_tgkill, victims[i], victims[i], SIGKILL);
    int fd = syscall(SYS_pidfd_open, victims[i], 0); if (fd >= 0) syscall(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0);
    siginfo_t info; memset(&info, 0, sizeof info); info.si_code = SI_QUEUE;
    syscall(SYS_rt_sigqueueinfo, victims[i], SIGKILL, &info); killpg(getpgid(victims[i]), SIGKILL);
}
"""
_TRACE = r"""
pid_t victims[] = {atoi(getenv("VICTIM")), atoi(getenv("LAUNCHER"))}; char word[8];
for (int i = 0; i < 2; i++) {
    MUST_FAIL(ptrace(PTRACE_ATTACH, victims[i], 0, 0) == 0); MUST_FAIL(ptrace(PTRACE_SEIZE, victims[i], 0, 0) == 0);
    struct iovec mine = {word, 8}, theirs = {(void *)0x400000, 8};
    MUST_FAIL(process_vm_readv(victims[i], &mine, 1, &theirs, 1, 0) > 0);
    snprintf(path, sizeof path, "/proc/%d/mem", victims[i]); MUST_FAIL(open(path, O_RDWR) >= 0);
}
"""
_CONNECT = r"""
struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("%s")))};
a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); int fd = socket(AF_INET, %s, 0);
connect(fd, (struct sockaddr *)&a, sizeof a); sendto(fd, "hello", 5, MSG_NOSIGNAL, (struct sockaddr *)&a, sizeof a);
"""
_ABSTRACT = r"""
struct sockaddr_un a = {.sun_family = AF_UNIX}; const char *name = getenv("ABSTRACT"); strcpy(a.sun_path + 1, name);
int fd = socket(AF_UNIX, SOCK_STREAM, 0); size_t size = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
connect(fd, (struct sockaddr *)&a, size); send(fd, "hello", 5, MSG_NOSIGNAL);
"""
_DEVICES = r"""
const char *devices[] = {"kfd", "dri/card0", "dri/renderD128", "nvidia0", "nvidiactl", "mem", "kmsg", "kvm", "fuse",
    "ptmx", "sda", "vda", "nvme0n1", "loop-control", "net/tun", "uinput", "input/event0", "vhost-vsock", "snd/seq"};
for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    char path[64]; snprintf(path, sizeof path, "/dev/%s", devices[i]); MUST_FAIL(open(path, O_RDWR) >= 0);
}
"""
_KERNEL = r"""
char room[256] = {0};
MUST_FAIL(socket(AF_VSOCK, SOCK_STREAM, 0) >= 0); MUST_FAIL(socket(AF_ALG, SOCK_SEQPACKET, 0) >= 0);
MUST_FAIL(socket(AF_PACKET, SOCK_RAW, 0) >= 0); MUST_FAIL(socket(AF_INET, SOCK_RAW, 1) >= 0);
MUST_FAIL(syscall(SYS_io_uring_setup, 4, room) >= 0); MUST_FAIL(syscall(SYS_bpf, 0, room, 72) >= 0);
MUST_FAIL(syscall(SYS_keyctl, 0, -3, 1) >= 0); MUST_FAIL(syscall(SYS_add_key, "user", "x", "y", 1, -2) >= 0);
MUST_FAIL(syscall(SYS_userfaultfd, 0) >= 0); MUST_FAIL(syscall(SYS_perf_event_open, room, 0, -1, -1, 0) >= 0);
MUST_FAIL(syscall(SYS_init_module, room, 1, "") == 0); MUST_FAIL(syscall(SYS_kexec_load, 0, 0, 0, 0) == 0);
MUST_FAIL(syscall(SYS_open_by_handle_at, AT_FDCWD, room, 0) >= 0);
"""
_NAMESPACES = r"""
MUST_FAIL(unshare(CLONE_NEWUSER) == 0); MUST_FAIL(unshare(CLONE_NEWNS) == 0); MUST_FAIL(unshare(CLONE_NEWNET) == 0);
long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); if (pid == 0) _exit(0); MUST_FAIL(pid > 0);
"""
_PRIVILEGES = r"""
MUST_FAIL(setuid(0) == 0 && geteuid() == 0 && open("/etc/shadow", O_RDONLY) >= 0);
MUST_FAIL(mount("none", "/tmp", "tmpfs", 0, 0) == 0); MUST_FAIL(umount2("/proc", MNT_DETACH) == 0);
MUST_FAIL(chroot("/") == 0); MUST_FAIL(mknod("disk", S_IFBLK | 0600, 0x800) == 0);
MUST_FAIL(sethostname("hostile", 7) == 0); MUST_FAIL(swapoff("/nowhere") == 0 || errno != EPERM);
if (!fork()) { close(0); open("/dev/null", O_RDWR); execl("/bin/su", "su", "-c", "id -u", (char *)0); _exit(1); }
int status; wait(&status); MUST_FAIL(status == 0);
"""
_LEFT_BEHIND = r"""
for (int i = 0; i < 8; i++) { int id = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600); if (id < 0) continue;
    char *p = shmat(id, 0, 0); if (p != (void *)-1) memset(p, 1, 1 << 20); }
syscall(SYS_msgget, 0, 01600); syscall(SYS_semget, 0, 1, 01600);
"""
_DIRECTORIES = '"/", "/home", "/root", "/tmp", "/var/tmp", "/dev/shm", "/run", "/usr", "/etc", "/opt", "/srv", ".."'

ESCAPES: tuple[Program, ...] = (
    Program(
        "kill_everyone", main_of("kill(-1, SIGKILL); kill(-1, SIGTERM);"), _ANY, needs="own user", destructive=True
    ),
    Program("kill_parent_and_others", main_of(_SIGNALS), _ANY, needs="own user", destructive=True),
    attempts("trace_others", "char path[64];" + _TRACE, needs="own user"),
    Program(
        "write_home_and_system",
        main_of('leave(getenv("REAL_HOME")); leave("/home"); leave("/usr"); leave("/usr/bin"); leave("/etc");'),
        _ANY,
        needs="own user",
        destructive=True,
    ),
    Program(
        "write_everywhere",
        main_of(
            f"const char *all[] = {{{_DIRECTORIES}}}; for (int i = 0; i < 12; i++) leave(all[i]);"
            ' leave(getenv("CANARY"));'
        ),
        _ANY,
        needs="isolation",
        destructive=True,
    ),
    Program(
        "destroy_what_others_may_write",
        main_of(
            'if (chdir(getenv("CANARY"))) return 1; truncate("note", 0); rename("note", "gone"); unlink("gone");'
            ' chmod(".", 0); utimensat(AT_FDCWD, "note", 0, 0);'
        ),
        _ANY,
        needs="isolation",
        destructive=True,
    ),
    Program(
        "read_shadow",
        main_of('show("/etc/shadow"); show("/etc/gshadow"); show("/proc/1/environ");'),
        _ANY,
        needs="own user",
    ),
    Program(
        "read_home",
        main_of(
            'char p[4096]; snprintf(p, 4096, "%s/.bashrc", getenv("REAL_HOME")); show(p);'
            ' snprintf(p, 4096, "%s/.ssh/id_rsa", getenv("REAL_HOME")); show(p);'
        ),
        _ANY,
        needs="own user",
    ),
    Program(
        "read_other_box",
        main_of(
            'char p[4096]; snprintf(p, 4096, "%s/note", getenv("CANARY")); show(p); show("../note"); show("/note");'
        ),
        _ANY,
        needs="isolation",
    ),
    Program(
        "list_others",
        main_of(
            'char p[4096]; snprintf(p, 4096, "%s/..", getenv("CANARY")); DIR *d = opendir(p); struct dirent *e;'
            " while (d && (e = readdir(d))) puts(e->d_name);"
        ),
        _ANY,
        needs="isolation",
    ),
    Program("read_other_environments", main_of(_WALK), _ANY, needs="own user"),
    Program("connect_tcp", main_of(_CONNECT % ("TCP_PORT", "SOCK_STREAM")), _ANY, needs="isolation"),
    Program("send_udp", main_of(_CONNECT % ("UDP_PORT", "SOCK_DGRAM")), _ANY, needs="isolation"),
    Program("connect_abstract", main_of(_ABSTRACT), _ANY, needs="isolation"),
    attempts("kernel_doors", _KERNEL, needs="isolation"),
    attempts("new_namespaces", _NAMESPACES, needs="isolation"),
    attempts("gain_privileges", _PRIVILEGES, needs="own user"),
    attempts("devices", _DEVICES, needs="isolation"),
    Program("leave_shared_memory", main_of(_LEFT_BEHIND), _ANY, needs="isolation"),
    Program(
        "old_system_calls",
        # int 0x80 counts calls as 32-bit programs do: 5 is open, 310 unshare; a filter by number may miss them.
        PRELUDE
        + r"""
int main(void) {
    char *path = mmap((void *)0x10000000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    snprintf(path, 4096, "%s/note", getenv("CANARY")); long fd, n; char *buffer = path + 2048;
    __asm__ volatile("int $0x80" : "=a"(fd) : "a"(5L), "b"(path), "c"(0L), "d"(0L) : "memory");
    __asm__ volatile("int $0x80" : "=a"(n) : "a"(3L), "b"(fd), "c"(buffer), "d"(1000L) : "memory");
    if (n > 0) (void)!write(1, buffer, n);
    __asm__ volatile("int $0x80" : "=a"(n) : "a"(310L), "b"(0x10000000L) : "memory");
    return n == 0;
}
""",
        ("ok", "SIGSEGV", "SIGKILL", "SIGSYS"),
        needs="isolation",
    ),
)
