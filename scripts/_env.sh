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

pip_install() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
}

install_optional() {
    # Only the identity loss needs facexlib, and only networks and losses named from BasicSR need basicsr. The latter
    # comes without its dependency tb-nightly, which would overwrite files of tensorboard, and is built with the torch
    # that is already there.
    local line
    pip_install "$(sed -n 's/^\(facexlib[^ ]*\).*/\1/p' requirements.txt)" \
        || echo 'Note: facexlib could not be installed. Everything works without it, except IdentityLoss.' >&2
    line=$(sed -n 's/^\(basicsr[^;]*\);.*/\1/p' requirements.txt)
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || return 0
    pip_install cython wheel future requests scikit-image scipy yapf \
        && pip_install --no-build-isolation --no-deps "$line" \
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
    cat "$@" | grep -v -e '^basicsr' -e '^facexlib' >"$filtered"
    pip_install -r "$filtered" || { rm -f "$filtered"; exit 1; }
    rm -f "$filtered"
    install_optional
    if ! "$PYTHON" -c 'import cv2' 2>/dev/null; then # servers without libGL
        "$PYTHON" -m pip uninstall --quiet --yes opencv-python
        pip_install --force-reinstall --no-deps opencv-python-headless
        "$PYTHON" -c 'import cv2' || exit 1
    fi
    echo "$wanted" >"$stamp"
}

find_environment() {
    local path
    for path in "$VENV/bin/python" "$VENV/Scripts/python.exe"; do
        if [ -x "$path" ] && "$path" -m pip --version >/dev/null 2>&1; then
            PYTHON="$path"
            return
        fi
    done
    return 1
}

if ! find_environment; then
    base=$(find_python) || exit 1
    existed=no
    if [ -e "$VENV" ]; then existed=yes; fi
    if ! "$base" -m venv "$VENV" || ! find_environment; then
        if [ "$existed" = no ]; then rm -rf "$VENV"; fi # not half an environment
        echo "Error: $base cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv." >&2
        exit 1
    fi
fi
