#!/bin/sh
# Runs the tests of the core and the shells on each supported Python of this machine but the one that is given.
#
# Interpreters are looked for on PATH and where pyenv keeps them, and are tried: a shim on PATH may not run.
set -eu
main=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

for version in 3.11 3.12 3.13; do
  [ "$version" = "$main" ] && continue
  found=
  for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
    if "$python" -c "import sys, venv, ensurepip; assert '%d.%d' % sys.version_info[:2] == '$version'" >/dev/null 2>&1; then
      found=$python
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "CPython $version: not on this machine; core and shells were not tested on it"
    continue
  fi
  environment=.venv-$version
  if [ ! -e "$environment/stamp" ] || [ requirements/core.txt -nt "$environment/stamp" ]; then
    "$found" -m venv "$environment"
    "$environment/bin/python" -m pip --disable-pip-version-check --quiet install -r requirements/core.txt
    "$environment/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --editable .
    touch "$environment/stamp"
  fi
  echo "CPython $version: core and shells"
  "$environment/bin/python" -m pytest -q tests/core tests/shells tests/cancel
done
