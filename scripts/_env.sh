# Sourced by the other scripts: finds a Python, makes .venv and installs what is needed, once.
# After it, $PYTHON is the environment's interpreter and the working directory is the project's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV="${GPEN_VENV:-.venv}"

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3.10 python3.14 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo 'Error: Python 3.10 or newer is needed; install it and run this again.' >&2
    return 1
}

install_basicsr() {
    # Optional: only networks and losses named from BasicSR need it. Without its dependency tb-nightly, which would
    # overwrite files of tensorboard, and built with the torch that is already there.
    local line
    line=$(sed -n 's/^\(basicsr[^;]*\);.*/\1/p' requirements.txt)
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || return 0
    "$PYTHON" -m pip install --quiet --disable-pip-version-check cython wheel future requests scikit-image scipy yapf \
        && "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps "$line" \
        || echo 'Note: BasicSR could not be installed. Everything works without it, except naming its networks and losses.' >&2
}

install() {
    # $1: what the environment is for; $2 ...: requirement files
    local purpose=$1 stamp wanted filtered
    shift
    stamp="$VENV/.installed-$purpose"
    wanted=$(cat "$@" scripts/_env.sh | cksum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    echo "Installing into $VENV (once; some minutes, several GB) ..." >&2
    filtered=$(mktemp)
    cat "$@" | grep -v '^basicsr' >"$filtered"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$filtered" || { rm -f "$filtered"; exit 1; }
    rm -f "$filtered"
    install_basicsr
    echo "$wanted" >"$stamp"
}

if [ ! -x "$VENV/bin/python" ]; then
    base=$(find_python) || exit 1
    "$base" -m venv "$VENV" || exit 1
fi
PYTHON="$VENV/bin/python"
