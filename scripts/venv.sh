# Sourced by the scripts beside it. Works in bash 3.2, which is what macOS has.
# shellcheck shell=bash

# An empty HOME makes pip write to /.cache; without HOME it asks the password database.
[ -n "${HOME:-}" ] || unset HOME

# pick_python: sets $python to a Python >= 3.11. Each is tried, since a shim on PATH may lead nowhere.
pick_python() {
  for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && return
    [ -z "${PYTHON:-}" ] || break
  done
  echo "$0: needs Python 3.11 or newer, which ${PYTHON:-python3} is not (set PYTHON to one that is)" >&2
  return 1
}

# unpack_debs DIR PACKAGE...: unpack Debian packages in DIR, with those they need that this machine lacks.
# Not `apt-get install`: it would change the machine, and Debian starts a service as soon as it is installed.
unpack_debs() {
  local dir=$1 deb
  shift
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  mkdir -p "$dir/debs/partial"
  set -- timeout 60 apt-get install -qq --download-only --reinstall --no-install-recommends \
    -o Dir::Cache::archives="$dir/debs" "$@"
  "$@" || { timeout 60 apt-get update -qq && "$@"; } || return 1
  for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir" || return 1; done
  rm -rf "$dir/debs"
}

# lock -s|-x: others that run the same script read its environment (-s), one writes it (-x). Where there is no
# flock (macOS), only two first runs at the same moment could meet.
lock() { ! command -v flock >/dev/null || flock "$1" 9; }

fresh() { [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; }

# use_venv NAME [EXTRA [GROUP...]]: sets $venv to .venv-NAME, the virtual environment of scripts/NAME, which holds this
# package (editable) with the extra and the dependency groups. One built before serves again as long as nothing in its
# stamp changed.
use_venv() {
  venv=$PWD/.venv-$1
  pick_python
  # The directory is in it because an environment that was copied along still leads to the old place.
  stamp="$PWD $(cat pyproject.toml scripts/venv.sh | cksum) $("$python" -VV)"
  exec 9<"scripts/$1"
  package=.${2:+[$2]}
  shift $(($# < 2 ? $# : 2))
  lock -s
  fresh && return
  lock -x
  fresh || build_venv "$@"
  lock -s
}

build_venv() {
  echo "$0: building $venv with $("$python" --version)" >&2
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear "$venv"
  else
    # Debian keeps pip's wheel in a package of its own. It can install itself.
    "$python" -m venv --clear --without-pip "$venv"
    if ! unpack_debs "$venv/pip" python3-pip-whl >"$venv/pip.log" 2>&1; then
      echo "$0: $python cannot make virtual environments with pip (Debian: apt-get install python3-venv)" >&2
      return 1
    fi
    set -- "$venv"/pip/usr/share/python-wheels/pip-*.whl "$@"
    "$venv/bin/python" "$1/pip" install --quiet --no-index "$1"
    shift
  fi
  # `pip install --group` would do, but pip has it only since 25.1.
  "$venv/bin/python" - "$@" >"$venv/groups.txt" <<'PYTHON'
import sys, tomllib

def show(group):
    for item in groups[group]:
        print(item) if isinstance(item, str) else show(item["include-group"])

with open("pyproject.toml", "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]
for group in sys.argv[1:]:
    show(group)
PYTHON
  pip_install --editable "$package" --requirement "$venv/groups.txt"
  echo "$stamp" >"$venv/stamp"
}

pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
