# shellcheck shell=bash
# What scripts/run, scripts/test and scripts/lock share: the virtual environment and how it is kept right.
#
# An installation is done when .venv holds a stamp that names everything it was made from. While one is
# under way .venv/unfinished exists: what a power cut leaves behind is thrown away and made again.

set -euo pipefail
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=$root/.venv

say() { printf 'flowork: %s\n' "$*"; }
die() { printf 'flowork: %s\n' "$*" >&2; exit 1; }

# fingerprint EXTRAS: what an installation depends on. A moved checkout or a new Python needs a new one.
fingerprint() {
  printf '%s\n' "$1" "$root" "$(readlink -f -- "$venv/bin/python3" || true)"
  cat -- "$root/setup.cfg" "$root/constraints.txt"
}

# installed EXTRAS: whether .venv is right as it is. Runs no Python: this is on the way of every start.
installed() {
  [[ -e $venv/stamp-$1 && ! -e $venv/unfinished ]] && cmp -s -- "$venv/stamp-$1" <(fingerprint "$1")
}

# install EXTRAS: makes .venv right for `pip install -e .[EXTRAS]` (`run` stands for none).
install() {
  exec {lock}<"$root"  # a second start waits for the first one's installation
  flock -n "$lock" || { say "waiting for another installation to finish"; flock "$lock"; }
  if ! installed "$1"; then
    SECONDS=0
    make_venv
    pip_install "$1"
    fingerprint run >"$venv/stamp-run"
    fingerprint "$1" >"$venv/stamp-$1"
    sync -f "$venv" && rm -f -- "$venv/unfinished"
    say "installed in $SECONDS s"
  fi
  exec {lock}<&-
}

# install_llama: llama.cpp for this machine into .venv, as `flowork models setup` makes it; the wheel is kept in
# .venv/wheels. Takes minutes once, then nothing.
install_llama() {
  local wheel
  wheel=$("$venv/bin/python3" -m appliance.ai.building "$venv/wheels") || die "llama.cpp could not be compiled"
  [[ $(cat -- "$venv/wheels/installed" 2>/dev/null) != "$wheel" ]] || return 0
  say "installing $(basename -- "$wheel")"
  "$venv/bin/python3" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps "$wheel" &&
    "$venv/bin/python3" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" "$wheel" ||
    die "$wheel cannot be installed"
  printf '%s\n' "$wheel" >"$venv/wheels/installed"
}

make_venv() {
  local python
  if [[ -e $venv/unfinished ]] || ! same_python; then
    say "the last installation was cut off, or made for another place or Python: starting afresh"
    rm -rf -- "$venv"
  fi
  if [[ ! -x $venv/bin/pip ]]; then
    python=$(find_python)
    mkdir -p -- "$venv"
    touch -- "$venv/unfinished"
    say "making .venv with $("$python" --version)"
    "$python" -m venv -- "$venv" >"$venv/install.log" 2>&1 || venv_without_pip "$python"
  fi
  touch -- "$venv/unfinished"
  sync -f "$venv"
}

# A virtual environment is bound to its path and to its Python's minor version.
same_python() {
  [[ -e $venv/pyvenv.cfg ]] || return 0
  local libs=("$venv"/lib/python3.*)
  "$venv/bin/python3" -c 'import sys; sys.exit(sys.argv[1:] != ["python%d.%d" % sys.version_info[:2]])' \
    "${libs[@]##*/}" 2>/dev/null && head -n 2 -- "$venv/bin/pip" 2>/dev/null | grep -qF -- "$venv/"
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or newer is needed; this machine has $(python3 --version 2>&1 || echo none)"
}

# Debian and Ubuntu keep what `venv` needs in a package of its own, which a fresh machine lacks.
venv_without_pip() {
  "$1" -c 'import ensurepip' 2>/dev/null && { cat -- "$venv/install.log" >&2; die "cannot make .venv"; }
  local package
  package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if ! apt_install "$package"; then
    rm -rf -- "$venv"
    die "$package is missing; install it, then run this again: sudo apt update && sudo apt install $package"
  fi
  "$1" -m venv --clear -- "$venv" || die "cannot make .venv"
  touch -- "$venv/unfinished"
}

# apt_install PACKAGE...: fails where this is not Debian's kin, or where a password would be needed and nobody is there.
apt_install() {
  local as_root=()
  command -v apt-get >/dev/null || return 1
  if ((EUID != 0)); then
    if sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    elif [[ -t 0 && -t 2 ]] && command -v sudo >/dev/null; then
      say "for $* from Debian's packages, sudo may ask for your password"
      as_root=(sudo)
    else
      return 1
    fi
  fi
  say "installing with apt: $*"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
  local log
  log=$(mktemp)
  if ! "${apt[@]}" install --no-install-recommends "$@" >"$log" 2>&1; then
    # The lists of a fresh machine are empty or old.
    if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"; } >"$log" 2>&1; then
      cat -- "$log" >&2
      rm -f -- "$log"
      return 1
    fi
  fi
  rm -f -- "$log"
}

# pip_install EXTRAS: shows on a terminal what pip is at; the whole log is in .venv/install.log.
pip_install() {
  local line target=.
  [[ $1 == run ]] || target=".[$1]"
  say "installing Flowork's Python packages (a few minutes on a small board)"
  if ! (cd -- "$root" && "$venv/bin/python3" -m pip install --disable-pip-version-check \
    --progress-bar off -c constraints.txt -e "$target") 2>&1 | tee "$venv/install.log" | while IFS= read -r line; do
    case $line in
      Collecting* | Building* | Installing*)
        [[ ! -t 1 ]] || printf '\r\033[K  %4d s  %.60s' "$SECONDS" "${line%% (*}" ;;
    esac
  done; then
    printf '\n' >&2
    tail -n 30 -- "$venv/install.log" >&2
    die "the installation failed; the whole log is in $venv/install.log"
  fi
  [[ ! -t 1 ]] || printf '\r\033[K'
}
