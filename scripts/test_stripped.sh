#!/usr/bin/env bash
# Run the tests that depend on the machine in a minimal environment (make test-stripped):
#
#   - as an unprivileged user whose home is private and who can read no other home;
#   - with gcc and g++ in PATH, without Go, Clang, Rust and MinGW;
#   - with umask 077, few variables (PATH, HOME, TMPDIR, LANG, what the copied interpreter needs), and a checkout that the
#     user can read but not write.
#
# Arguments are passed to pytest instead of the usual tests.
#
# Needs root to switch to that user. Everything is in a temporary directory that is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
    echo "test-stripped: skipped, only root can switch to another user"
    exit 0
fi
user=65432 # an id that no account has
optional='^(.*-)?(go|gofmt|clang|clang\+\+|clang-cpp|rustc|cargo|rustdoc)(-[0-9.]+)?$|mingw'

stage=$(mktemp -d /var/tmp/halo-forge-stripped-XXXXXX)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
mkdir "$stage/bin" "$stage/home" "$stage/tmp" "$stage/checkout"

# The working tree: tracked files and new ones, without ignored files.
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
    xargs -0 sh -c 'for each; do [ ! -e "$each" ] || printf "%s\0" "$each"; done' sh |
    tar --create --null --files-from=- | tar --extract --no-same-owner --directory "$stage/checkout"

# The interpreter and its packages, because only root may be able to read them (pyenv in root's home).
base=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')
python=$(.venv/bin/python -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}")')
mkdir -p "$stage/python/bin" "$stage/python/lib"
cp -L "$base/bin/$python" "$stage/python/bin/"
# If the interpreter is a shared library, the system may have another one of that name.
find "$base/lib" -maxdepth 1 -name 'libpython*.so*' -exec cp -L {} "$stage/python/lib/" \;
tar --create --directory "$base/lib" --exclude="$python/site-packages" --exclude="$python/config-*" \
    --exclude="$python/test" --exclude='*.opt-?.pyc' "$python" | tar --extract --directory "$stage/python/lib"
"$stage/python/bin/$python" -m venv --without-pip "$stage/venv"
rm -r "$stage/venv/lib/$python/site-packages"
cp -al ".venv/lib/$python/site-packages" "$stage/venv/lib/$python/" 2>/dev/null || # hard links, if both are on one file system
    { rm -rf "$stage/venv/lib/$python/site-packages" && cp -a ".venv/lib/$python/site-packages" "$stage/venv/lib/$python/"; }
rm -f "$stage/venv/lib/$python/site-packages/"__editable__*halo_forge* # the copy is tested, not the original

for tool in /usr/bin/* /bin/*; do
    name=${tool##*/}
    [[ $name =~ $optional ]] || ln -sf "$tool" "$stage/bin/$name" # /bin and /usr/bin may be the same folder
done

# That user cannot write what Python would compile at each start of a program.
"$stage/venv/bin/python" -m compileall -q "$stage/checkout/halo_forge" "$stage/checkout/tests/support"
chmod -R a+rX,go-w "$stage/checkout" "$stage/python" "$stage/venv/bin"
chown -R "$user:$user" "$stage/home" "$stage/tmp"
chmod 700 "$stage/home" "$stage/tmp"

cd "$stage/checkout"
umask 077
run() {
    setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs -- \
        env -i PATH="$stage/bin" HOME="$stage/home" TMPDIR="$stage/tmp" LANG=C.UTF-8 OMP_NUM_THREADS=1 \
        LD_LIBRARY_PATH="$stage/python/lib" \
        PYTHONPATH="$stage/checkout" PYTHONDONTWRITEBYTECODE=1 \
        "$stage/venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
}
if [ $# -gt 0 ]; then
    run "$@"
else
    # Alone, as in make test; without what counts and times many jobs, which is the same for every user.
    run tests/sandbox --ignore tests/sandbox/test_endurance.py --ignore tests/sandbox/test_filters.py \
        --deselect tests/sandbox/test_cleanliness.py::test_a_launcher_that_is_killed_while_it_starts_a_job_leaves_nothing
    # Of the others those that depend on this: tools, permissions, where the checkout lies. Left out are those that judge
    # what a program is or prints, which is the same for every user.
    run -n 2 --dist loadfile --no-loadscope-reorder tests/verifiers tests/store tests/checks tests/scripts/test_scripts.py \
        tests/cli/test_cli.py tests/cli/test_cli_config_check.py tests/cli/test_cli_doctor.py \
        tests/cli/test_cli_tasks.py tests/cli/test_cli_verify.py \
        --ignore tests/store/test_damaged_runs.py --deselect tests/cli/test_cli.py::test_interrupted \
        $(printf -- '--ignore tests/verifiers/test_%s.py ' any_python_tests builtin_tasks comparison_properties \
            constant_programs diagnostics flags hidden_warnings output_rules rewards trivial verdict_oracle)
fi
