"""What calls are known to do: for judging what a program does by its text."""

from __future__ import annotations

import builtins

from halo_forge.core.source import C_LIBRARY

# They only end the program, pass the time, or prepare something that nobody sees.
IDLE = frozenset(
    "exit _exit _Exit quick_exit abort terminate sleep usleep nanosleep Sleep pause raise assert malloc calloc realloc"
    " time clock rand srand setlocale setvbuf sync_with_stdio tie defined decltype typeof __builtin_unreachable"
    " __builtin_trap panic unreachable todo unimplemented Some None Ok Err Box vec drop len cap make append recover"
    " sizeof alignof static_cast reinterpret_cast const_cast dynamic_cast va_start va_end Exit fflush flush precision"
    " unsetf setf debug_assert assert_eq assert_ne debug_assert_eq debug_assert_ne black_box".split()
)
OUTPUT = frozenset(
    "printf fprintf dprintf vprintf vfprintf wprintf puts fputs putchar fputc putc putwchar fwrite write perror"
    " print println eprint eprintln Print Println Printf Fprint Fprintln Fprintf".split()
)
READING = frozenset(
    "scanf fscanf getchar fgetc getc fgets gets getline fread read cin stdin read_line read_to_string Scan Scanln Scanf"
    " Fscan Fscanln Fscanf getenv input open".split()
)
# They change memory: to be seen by the caller of a function, not from outside of a program.
CHANGING = frozenset(
    "memset memcpy memmove bzero strcpy strncpy strcat strncat strtok strtok_r sprintf snprintf sscanf vsprintf"
    " vsnprintf qsort free fclose swap sort stable_sort reverse fill iota push_back pop_back emplace_back push_front"
    " pop_front push pop insert erase clear resize reserve assign unique rotate copy transform append extend update"
    " add remove discard setdefault appendleft popleft popitem".split()
)
# They give a value and do nothing else.
PURE = frozenset(name for name in C_LIBRARY if name.islower()) - IDLE - OUTPUT - READING - CHANGING - {
    "main", "fopen", "freopen", "atexit", "ungetc", "stdout", "stderr"
} | frozenset(
    "max min size length empty begin end cbegin cend rbegin rend front back at find count substr c_str data accumulate"
    " to_string stoi stol stod gcd lcm make_pair make_tuple string vector pair map set unordered_map unordered_set"
    " is_empty iter collect new clone into unwrap to_owned String Vec numeric_limits".split()
)  # fmt: skip
STREAMS = frozenset(("cin", "cout", "cerr", "clog", "wcin", "wcout"))
ASSEMBLY = frozenset(("asm", "__asm__", "__asm"))

PYTHON_OUTPUT = frozenset(("print", "write", "writelines"))
PYTHON_PURE = (
    frozenset(name for name in dir(builtins) if not name.startswith("_"))
    | frozenset(
        "join split rsplit splitlines strip lstrip rstrip format lower upper title capitalize replace startswith"
        " endswith isdigit isalpha isalnum isupper islower isspace find rfind index count keys values items get copy"
        " encode decode zfill ljust rjust center most_common Counter defaultdict deque OrderedDict".split()
    )
) - frozenset("print input open exec eval compile setattr delattr breakpoint help exit quit".split())
PYTHON_IDLE = frozenset("exit quit _exit sleep seed setrecursionlimit flush".split())
