"""Programs in C that fill the disk, or leave in their directory what nobody should follow."""

from __future__ import annotations

from hostile_programs import FLOOD, SHORT_WALL, Program, main_of

FILES: tuple[Program, ...] = (
    Program(
        "fill_the_disk", main_of('int fd = open("big", O_CREAT | O_WRONLY, 0600);' + FLOOD % (3, "0")), ("output",)
    ),
    Program(
        "fill_the_disk_with_many_files",
        main_of(
            'char name[32], *block = calloc(1, 1 << 20); for (int i = 0; i < 400; i++) { sprintf(name, "f%d", i);'
            " int fd = open(name, O_CREAT | O_WRONLY, 0600); if (fd < 0) return 1;"
            " if (write(fd, block, (1 << 20) - 1) < (1 << 20) - 1) return 2; close(fd); }"
        ),
        ("exit", "output", "memory"),
        needs="own file system",
        limits={"cpu_seconds": 3.0},
    ),
    Program(
        "fill_the_disk_until_it_is_ended",
        main_of(
            'char name[32], *block = calloc(1, 1 << 18); for (int i = 0; i < 4000; i++) { sprintf(name, "f%d", i);'
            " int fd = open(name, O_CREAT | O_WRONLY, 0600); if (fd < 0) return 1;"
            " if (write(fd, block, 1 << 18) < 1 << 18) return 2; close(fd); }"
        ),
        ("exit", "output", "memory", "cpu", "wall"),
        needs="isolation",
        limits=SHORT_WALL,
    ),
    Program(
        "sparse_terabyte",
        main_of('int fd = open("big", O_CREAT | O_WRONLY, 0600); return ftruncate(fd, 1L << 40) != 0;'),
        ("output", "exit"),
    ),
    Program(
        "many_inodes",
        main_of(
            'char name[32]; for (int i = 0; i < 300000; i++) { sprintf(name, "f%d", i);'
            " int fd = open(name, O_CREAT | O_WRONLY, 0600); if (fd < 0) return 1; close(fd); }"
        ),
        ("exit", "cpu", "output"),
    ),
    Program(
        "remove_working_directory",
        main_of('char here[4096]; getcwd(here, sizeof here); unlink("program"); rmdir(here); puts("gone");'),
        ("ok",),
        stdout=b"gone\n",
    ),
    Program("result_is_a_link", main_of('symlink("/etc/passwd", "result");'), ("ok",), fetch="result"),
    Program("result_is_a_pipe", main_of('mkfifo("result", 0600);'), ("ok",), fetch="result"),
    Program(
        "result_has_two_names",
        main_of('link("program", "result");'),
        ("ok",),
        fetch="result",
    ),
)
