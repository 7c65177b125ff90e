#!/bin/sh
# Prints the first Python from 3.11 on that really runs and can make an environment; a shim on PATH may not.
for name in python3 python3.13 python3.12 python3.11 python; do
  if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    command -v "$name"
    exit 0
  fi
done
