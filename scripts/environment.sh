# Sourced by the other scripts: makes .venv with what `install EXTRAS…` names, once for each state
# of the project's files. Needs nothing but a Python of 3.11 or later, as `python3` or in $PYTHON.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python of 3.11 or later found: install one, or name it in PYTHON" >&2
  return 1
}

# install FOLDER REQUIREMENT…: a virtual environment that holds the requirements.
install() {
  local folder=$1 state mark python
  shift
  state=$(cat pyproject.toml registry/pyproject.toml constraints.txt | cksum)
  mark=$folder/installed.$(echo "$*" | cksum | cut -d' ' -f1)
  if [ -x "$folder/bin/python" ] && [ "$(cat "$mark" 2>/dev/null)" = "$state" ]; then
    return
  fi
  python=$(find_python) || return 1
  echo "installing into $folder (the first time takes a minute or two) …" >&2
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder" || return 1
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt "$@" || return 1
  echo "$state" > "$mark"
}
