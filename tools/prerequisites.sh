#!/bin/sh
# Names what is missing on this machine, and the line that installs it.
set -u
python=${1:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
  echo "missing: $python. Install it with:  apt-get install python3 python3-venv" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "found $("$python" --version), needed Python 3.11 or newer." >&2
  echo "Install one (Debian 12 and Ubuntu 24.04 have it; on Ubuntu 22.04: apt-get install python3.11 python3.11-venv)" >&2
  echo "and name it:  make PYTHON=python3.11 ..." >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  echo "missing: the venv module of $python. Install it with:  apt-get install python3-venv  (or python$version-venv)" >&2
  exit 1
fi
