"""A harness in C or C++ and the answer it calls: proof that the harness itself came to its end.

Both share one process.  A start-up object is linked first.  Before any code of the answer runs, constructors included,
it reads a sentinel from standard input, which is different in every run, and leaves nothing of it there.  The program's
`main` is ours and calls the harness's; when that has returned, the sentinel is written after what the harness printed,
and the process exits at once.  A program that ends in any other way (`exit`, `_exit`, `longjmp`, an `atexit` handler,
another `main`) does not print the sentinel, and neither does one whose standard output has been replaced since the
start: lines of the harness may then have gone elsewhere.

An answer that defines a name which the harness needs from the C library, or functions that run without being called, is
not linked at all.  Until the end the sentinel lies in a page that cannot be read; what is left to an answer is to make
that page readable, or to change the harness's code or variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from halo_forge.core.errors import ConfigError
from halo_forge.core.source import digest
from halo_forge.sandbox.job import Limits, SandboxError
from halo_forge.verifiers.compiled import elf
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.diagnostics import clip, ending, readable

START = """#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __cplusplus
#include <iostream>
#ifdef __GLIBCXX__
#include <ext/stdio_filebuf.h>
#include <typeinfo>
#endif
// Objects are set up in the order of linking: this is before any of the answer's.
static std::streambuf *const buffer = std::cout.rdbuf();
static bool same_buffer() {
    std::streambuf *now = std::cout.rdbuf();
    if (!std::cout.good() || now == 0) return false;
    if (now == buffer) return true;
#ifdef __GLIBCXX__
    // What `sync_with_stdio(false)` puts there.
    typedef __gnu_cxx::stdio_filebuf<char> file_buffer;
#ifdef __GXX_RTTI
    if (typeid(*now) != typeid(file_buffer)) return false;
#endif
    return static_cast<file_buffer *>(now)->fd() == 1;
#else
    return false;
#endif
}
extern "C" {
#endif
int __real_main(int, char **, char **);
int __wrap_main(int, char **, char **);
static char *sentinel;
static long length;
static FILE *stream;
static struct stat file;
static int same_output(void) {
    struct stat now;
    return stdout == stream && fileno(stream) == 1 && !ferror(stream) && syscall(SYS_fstat, 1, &now) == 0
        && now.st_dev == file.st_dev && now.st_ino == file.st_ino;
}
static void take(void) {
    stream = stdout;
    syscall(SYS_fstat, 1, &file);
    sentinel = (char *)syscall(SYS_mmap, 0, 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
    length = syscall(SYS_read, 0, sentinel, 32L);
    syscall(SYS_mprotect, sentinel, 4096L, PROT_NONE);
    syscall(SYS_ftruncate, 0, 0L);
    syscall(SYS_lseek, 0, 0L, 0);
}
__attribute__((section(".preinit_array"), used)) static void (*first)(void) = take;
int __wrap_main(int argc, char **argv, char **environment) {
    int code = __real_main(argc, argv, environment);
#ifdef __cplusplus
    std::cout.flush();
    if (!same_buffer()) length = 0;
#endif
    fflush(NULL);
    syscall(SYS_mprotect, sentinel, 4096L, PROT_READ);
    if (length > 0 && same_output()) syscall(SYS_write, 1, sentinel, (unsigned long)length);
    for (;;) syscall(SYS_exit_group, code);
}
#ifdef __cplusplus
}
#endif
"""
"""Calls the system itself: functions such as `read` may be the answer's, or be watched by a sanitizer."""
LINK_OPTION = "-Wl,--wrap=main"

# What the objects that every program begins with need, and what only the linker may define.
_OF_THE_START = frozenset(
    "_start _init _fini __wrap_main __libc_start_main __libc_csu_init __libc_csu_fini __gmon_start__"
    " _ITM_registerTMCloneTable _ITM_deregisterTMCloneTable".split()
)
# Constructors of global objects are ordinary C++, and nothing that C has.
_ORDINARY = {"cpp": frozenset({".init_array"})}
# Ways to the output and the memory behind the harness's back, of no use to a function that returns a result.
_REACHING = frozenset(
    "dlsym dlvsym dup dup2 dup3 fcntl fcntl64 fork vfork clone fopencookie freopen freopen64 ftruncate ftruncate64"
    " lseek lseek64 mprotect pread pread64 preadv process_vm_readv process_vm_writev ptrace pwrite pwrite64 pwritev"
    " syscall __bss_start __data_start __executable_start _edata _end _etext edata end etext".split()
)
# Of use to functions that read files or build text; not beside the harness's output.
_WITH_A_STREAM = frozenset(
    "rewind fseek fseeko fseeko64 fsetpos fsetpos64 open_memstream open_wmemstream fmemopen".split()
)
_OUTPUT = frozenset({"stdout", "_IO_2_1_stdout_"})


class LinkedLanguage(Protocol):
    """What has to be known of a language in order to link a harness with an answer; see `CompiledSpec`."""

    @property
    def language(self) -> str: ...
    def source_name(self, stem: str) -> str: ...
    def compile_command(self, compiler: str, source: str, target: str) -> list[str]: ...
    def compile_limits(self) -> Limits: ...
    def link_command(self, compiler: str, objects: list[str], target: str) -> list[str]: ...
    def program_name(self) -> str: ...
    def libraries(self) -> list[str]: ...
    def start_source(self) -> str | None: ...
    def is_entry(self, symbol: str, entry_point: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class HarnessObject:
    """A compiled harness.

    Attributes:
        content: The object.
        needs: Names that it and our own object take from libraries.
        initializers: See `elf.ObjectFile`; those that options of the compiler put into every object.
    """

    content: bytes
    needs: frozenset[str]
    initializers: frozenset[str]


def link(spec: LinkedLanguage, context: BuildContext, harness: str, entry_point: str | None, answer: bytes) -> bytes:
    """The program of a harness and an answer.

    Raises:
        StageFailed: They are not linked.
        ConfigError: The harness does not compile.
        SandboxError: The verifier itself failed.
    """
    program = spec.program_name()
    compiled = compile_harness(spec, context, harness)
    # First, so that its `main` is taken and a demonstration of the answer's own is ignored.
    objects = {"harness.o": compiled.content, "answer.o": answer}
    start = _start(spec, context)
    if start is None:
        return context.make(spec.link_command(context.compiler, list(objects), program), objects, program)
    _refuse_tampering(spec, context, compiled, entry_point, answer)
    objects = {"start.o": start, **objects}
    command = [*spec.link_command(context.compiler, list(objects), program), LINK_OPTION]
    return context.make(command, objects, program)


def compile_harness(spec: LinkedLanguage, context: BuildContext, source: str) -> HarnessObject:
    """The compiled harness; the answer is never in the same directory.

    Raises:
        ConfigError: It does not compile.
        SandboxError: The verifier itself failed.
    """
    return context.once(("harness", digest(source)), lambda: _compile_harness(spec, context, source))


def harness_error(said: str, source: str) -> ConfigError:
    """An error in the prompt file, not in the answer."""
    return ConfigError(
        f"the harness of a prompt does not compile: {said}\n{source[:500]}",
        "fix `tests.source` in the prompt file (`halo-forge docs verifiers#what-all-languages-share`)",
    )


def _compile_harness(spec: LinkedLanguage, context: BuildContext, source: str) -> HarnessObject:
    name = spec.source_name("harness")
    command = spec.compile_command(context.compiler, name, "harness.o")
    outcome = context.run(command, {name: source.encode("utf-8", errors="backslashreplace")}, "harness.o")
    if not outcome.clean or outcome.fetched is None:
        raise harness_error(clip(readable(outcome.stderr)) or ending(outcome, spec.compile_limits()), source)
    start = _start(spec, context)
    if start is None:
        return HarnessObject(outcome.fetched, frozenset(), frozenset())
    known = context.once("library names", lambda: _library_names(spec, context))
    own = _readable_object(outcome.fetched, source)
    needs = (own.undefined | elf.read(start).undefined) & known
    return HarnessObject(outcome.fetched, needs | _OF_THE_START, own.initializers)


def _readable_object(content: bytes, source: str) -> elf.ObjectFile:
    try:
        return elf.read(content)
    except ValueError as error:
        raise ConfigError(
            f"the harness of a prompt is compiled to an object that cannot be searched for names: {error}\n"
            f"{source[:200]}",
            "leave options that make other objects (-m32, -flto) out of verifier.flags",
        ) from error


def _refuse_tampering(
    spec: LinkedLanguage, context: BuildContext, harness: HarnessObject, entry_point: str | None, answer: bytes
) -> None:
    try:
        own = elf.read(answer)
    except ValueError as error:
        context.fail(f"the program's object cannot be searched for names: {error}")
    taken = sorted(
        name
        for name in own.defined & harness.needs
        if entry_point is None or name in _OF_THE_START or not spec.is_entry(name, entry_point)
    )
    initializers = sorted(own.initializers - harness.initializers - _ORDINARY.get(spec.language, frozenset()))
    if own.undefined & _REACHING or (own.undefined & _WITH_A_STREAM and own.undefined & _OUTPUT):
        context.flags.add("tampering")
    if taken or initializers:
        context.flags.add("tampering")
        what = [f"the program defines `{name}`, which the tests take from a library" for name in taken[:5]]
        context.fail(
            "\n".join(what or [f"the program has functions that run without being called: {', '.join(initializers)}"])
        )


def _start(spec: LinkedLanguage, context: BuildContext) -> bytes | None:
    source = spec.start_source()
    return None if source is None else context.once("start", lambda: _compile_start(spec, context, source))


def _compile_start(spec: LinkedLanguage, context: BuildContext, source: str) -> bytes:
    name = spec.source_name("start")
    # It runs before a sanitizer is set up.
    command = [*spec.compile_command(context.compiler, name, "start.o"), "-fno-sanitize=all"]
    outcome = context.run(command, {name: source.encode()}, "start.o")
    if not outcome.clean or outcome.fetched is None:
        raise SandboxError(
            f"{context.compiler} cannot compile the start-up code of a harness: {readable(outcome.stderr)[-500:]}"
        )
    return outcome.fetched


def _library_names(spec: LinkedLanguage, context: BuildContext) -> frozenset[str]:
    """What the libraries define that every program is linked with."""
    names: set[str] = set()
    for library in spec.libraries():
        outcome = context.run([context.compiler, f"-print-file-name={library}"], {}, None)
        found = outcome.stdout.decode("utf-8", errors="backslashreplace").strip()
        if not outcome.clean:
            raise SandboxError(f"{context.compiler} does not say where {library} is: {readable(outcome.stderr)[:200]}")
        if "/" not in found:
            continue  # not installed: gcc echoes the name
        try:
            with open(found, "rb") as handle:
                names |= elf.read(handle.read()).defined
        except (OSError, ValueError) as error:
            raise SandboxError(f"{library} cannot be read: {error}") from error
    if not names:
        raise SandboxError(f"{context.compiler} knows none of {', '.join(spec.libraries())}")
    return frozenset(names)
