#!/bin/sh
# Runs the tests of the core and the shells on a version of Python, unless the interpreter that is given is of it.
#
#   test-on-python.sh VERSION INTERPRETER
#
# One of that version is looked for on PATH and where pyenv keeps them, and is tried: a shim on PATH may not run.
set -eu
version=$1
[ "$("$2" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ] && exit

found=
for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
  if "$python" -c "import sys, venv, ensurepip; assert '%d.%d' % sys.version_info[:2] == '$version'" >/dev/null 2>&1; then
    found=$python
    break
  fi
done
if [ -z "$found" ]; then
  echo "CPython $version: not on this machine; core and shells were not tested on it"
  exit
fi

environment=.venv-$version
if [ ! -e "$environment/stamp" ] || [ requirements/core.txt -nt "$environment/stamp" ]; then
  "$found" -m venv "$environment"
  "$environment/bin/python" -m pip --disable-pip-version-check --quiet install -r requirements/core.txt
  "$environment/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --editable .
  touch "$environment/stamp"
fi
echo "CPython $version: core and shells"
# Several may run at the same time, and a cache would be shared.
"$environment/bin/python" -m pytest -q -p no:cacheprovider tests/core tests/shells tests/cancel
