"""Sources that attack the compiler, the assembler or the linker, and programs that they make which cannot run.

@CANARY@ and @REAL_HOME@ stand for directories, as in `hostile_escapes`.
"""

from __future__ import annotations

from hostile_programs import MEBIBYTE, Ending, Program

_ANY: tuple[Ending, ...] = ("ok", "exit", "cpu", "wall", "memory", "output", "SIGKILL", "SIGSEGV", "SIGABRT")
_REFUSED: tuple[Ending, ...] = ("exit",)
_BOMBED: tuple[Ending, ...] = ("cpu", "memory", "output", "exit", "wall")
_MAIN = "\nint main(void) { return 0; }\n"
_MACROS = "#define m0 1+\n" + "".join(f"#define m{n} {f'm{n - 1} ' * 10}\n" for n in range(1, 12))
_TWICE = "template<int n, int m> struct twice { enum { v = twice<n - 1, 2 * m>::v + twice<n - 1, 2 * m + 1>::v }; };\n"
_LOOP = "constexpr long sum(long n) { long s = 0; for (long i = 0; i < n; i++) s += i; return s; }\n"


def _including(path: str) -> str:
    return f'#include "{path}"{_MAIN}'


def _source(name: str, source: str, expected: tuple[Ending, ...], **more: object) -> Program:
    return Program(name, source, expected, compiling=True, **more)  # type: ignore[arg-type]


SOURCES: tuple[Program, ...] = (
    _source("include_zeros", _including("/dev/zero"), ("memory", "exit", "cpu")),
    _source("include_random", _including("/dev/urandom"), ("memory", "exit", "cpu", "output")),
    _source("include_standard_input", _including("/dev/stdin"), ("ok", "exit")),
    _source("include_descriptor", _including("/proc/self/fd/0"), ("ok", "exit")),
    _source("include_environment", _including("/proc/self/environ"), ("ok", "exit")),
    _source("include_terminal", _including("/dev/tty"), _REFUSED, limits={"wall_seconds": 2.0}),
    _source("include_directory", _including("/"), _REFUSED),
    _source("include_shadow", _including("/etc/shadow"), _REFUSED, needs="own user"),
    _source("include_home", _including("@REAL_HOME@/.bashrc"), _REFUSED, needs="own user"),
    _source("include_other_box", _including("@CANARY@/note"), _REFUSED, needs="isolation"),
    _source(
        "incbin_home", '.globl main\nmain: .incbin "@REAL_HOME@/.bashrc"\n', _REFUSED, language="asm", needs="own user"
    ),
    _source(
        "incbin_other_box", '.globl main\nmain: .incbin "@CANARY@/note"\n', _REFUSED, language="asm", needs="isolation"
    ),
    _source("incbin_in_c", '__asm__(".incbin \\"@CANARY@/note\\"");' + _MAIN, _REFUSED, needs="isolation"),
    _source("incbin_zeros", '.globl main\nmain: .incbin "/dev/zero"\n', _BOMBED, language="asm"),
    _source("include_itself", '#include "answer.c"\n#include "answer.c"' + _MAIN, _BOMBED),
    _source("macro_bomb", _MACROS + "int main(void) { return m11 0; }\n", ("cpu", "memory")),
    _source(
        "template_recursion",
        "template<int n> struct deep { enum { v = deep<n + 1>::v }; };\nint main() { return deep<0>::v; }\n",
        ("exit",),
        language="cpp",
    ),
    _source(
        "template_bomb",
        _TWICE + "template<int m> struct twice<0, m> { enum { v = m & 1 }; };\n"
        "int main() { return twice<26, 0>::v; }\n",
        ("cpu", "memory"),
        language="cpp",
    ),
    _source(
        "constexpr_loop",
        _LOOP + "constexpr long a = sum(100000000000L);\nint main() { return a; }\n",
        ("exit", "cpu", "memory"),
        language="cpp",
    ),
    _source("array_of_gigabytes", "int a[1 << 30] = {1};" + _MAIN, _BOMBED),
    _source("array_called_main", "main[-1u] = {1};\n", _BOMBED),
    _source("assembler_space", ".globl main\nmain: ret\n.data\n.space 4294967296, 1\n", _BOMBED, language="asm"),
    _source(
        "assembler_repeat", ".globl main\nmain: ret\n.data\n.rept 2000000000\n.byte 1\n.endr\n", _BOMBED, language="asm"
    ),
    _source("assembler_macro", ".macro m\nm\nm\n.endm\nm\n", _BOMBED, language="asm"),
    _source("many_errors", "int main(void) {\n" + "x;\n" * 40_000 + "}\n", _REFUSED),
    _source("many_warnings", "int main(void) {\n" + "1;\n" * 3_000 + "}\n", ("ok", "output", "cpu")),
    _source("deep_parentheses", "int main(void) { return " + "(" * 20_000 + "1" + ")" * 20_000 + "; }\n", _ANY),
    _source("nul_bytes", "int main(void) { return 0; }\n\0\0\0\n", ("ok", "exit")),
    _source("one_long_line", "int main(void) { return 0" + " + 1" * 60_000 + "; }\n", _ANY),
    _source(
        "plugin_pragma",
        '#pragma GCC plugin "./evil.so"\n#pragma GCC optimize("O3", "-fplugin=./evil.so")\n'
        '#pragma GCC target("avx2")\n' + _MAIN,
        ("ok", "exit"),
    ),
    _source("dependency_pragma", '#pragma GCC dependency "@CANARY@/note"' + _MAIN, ("ok", "exit"), needs="isolation"),
    _source("linker_script", '#pragma comment(linker, "-T /etc/passwd")\n' + _MAIN, ("ok",)),
    Program(
        "bss_of_64_gigabytes",
        "char a[1L << 36]; int main(void) { a[1L << 35] = 1; return a[0]; }\n",
        ("exit", "not started", "SIGSEGV", "SIGKILL", "SIGABRT"),
    ),
    Program(
        "interpreter_of_its_own",
        'const char i[] __attribute__((section(".interp"))) = "./evil";' + _MAIN,
        ("not started", "ok", "exit"),
    ),
    Program(
        "constructor_before_main",
        "#include <unistd.h>\n__attribute__((constructor)) void f(void) { _exit(0); }\nint main(void) { return 7; }\n",
        ("ok",),
        stdout=b"",
    ),
    Program("no_main_but_data", "const int main[] = {0};\n", ("SIGSEGV",)),
    Program(
        "stack_in_one_piece",
        "int main(void) { volatile char a[512 << 20]; a[0] = 1; return a[0]; }\n",
        ("SIGSEGV",),
        limits={"stack_bytes": 8 * MEBIBYTE},
    ),
)
