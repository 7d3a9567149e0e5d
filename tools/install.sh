#!/bin/sh
# Installs a lock file and this project into a virtual environment, which is created first.
#   tools/install.sh PYTHON VENV LOCK
# uv does it in seconds: the one on the PATH, or one that is fetched from PyPI. Without uv, pip does it.
set -eu
python=$1 venv=$2 lock=$3
uv_version=0.13.9
root=$(cd "$(dirname "$0")/.." && pwd)
began=$(date +%s)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	echo "Python 3.11 or newer is needed, $python is older: make PYTHON=python3.11" >&2
	exit 1
}
if [ ! -x "$venv/bin/python" ]; then
	echo "Creating $venv with $("$python" --version) ..."
	"$python" -m venv --without-pip "$venv"
fi

# Runs the pip of the environment, or the one of the Python that made it.
pip() {
	if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
		"$venv/bin/python" -m pip --disable-pip-version-check "$@"
	elif "$python" -m pip --python "$venv/bin/python" --version >/dev/null 2>&1; then
		"$python" -m pip --disable-pip-version-check --python "$venv/bin/python" "$@"
	else
		"$venv/bin/python" -m ensurepip >/dev/null
		"$venv/bin/python" -m pip --disable-pip-version-check "$@"
	fi
}

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
	uv=$venv/bin/uv
	[ -x "$uv" ] || {
		echo "Fetching uv $uv_version ..."
		pip install --quiet --no-deps --only-binary :all: "uv==$uv_version" 2>/dev/null || uv=
	}
fi

count=$(grep -c == "$root/$lock")
# uv doesn't know the settings of pip: its index, its proxy, its certificates.
with_uv() {
	echo "Installing $count libraries with uv ..."
	UV_SYSTEM_CERTS=1 "$uv" pip install --quiet --no-deps --python "$venv/bin/python" \
		--requirement "$root/$lock" --build-constraints "$root/requirements.lock" \
		--config-settings editable_mode=compat --editable "$root"
}

with_pip() {
	echo "Installing $count libraries with pip, since uv is not available or fails here ..."
	pip install --no-deps --requirement "$root/$lock"
	PIP_CONSTRAINT=$root/requirements.lock pip install --quiet --no-deps \
		--config-settings editable_mode=compat --editable "$root"
}

if [ -z "$uv" ] || ! with_uv; then
	with_pip
fi
echo "Installed into $venv in $(($(date +%s) - began)) s."
