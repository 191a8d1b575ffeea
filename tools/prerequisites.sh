#!/bin/sh
# Prints the Python to use: the one given, or the first on PATH that will do.
# Where none will do, names what is missing and the line that installs it.
set -u

problem() { # of one interpreter; empty when it will do
  if ! command -v "$1" >/dev/null 2>&1; then
    echo "missing: $1. Install it with:  sudo apt-get install python3 python3-venv"
  elif ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "$1 is $("$1" --version 2>&1), needed is 3.11 or newer. Install one with:  sudo apt-get install python3.11 python3.11-venv"
  elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "missing: the module venv of $1. Install it with:  sudo apt-get install python$version-venv"
  fi
}

report=
for python in ${1:-python3 python3.14 python3.13 python3.12 python3.11}; do
  found=$(problem "$python")
  if [ -z "$found" ]; then
    echo "$python"
    exit 0
  fi
  # A Python that lacks nothing but its venv module is the nearest to report, else the first one.
  case $found in
    *"module venv"*) report=$found && break ;;
    *) report=${report:-$found} ;;
  esac
done
echo "$report" >&2
exit 1
