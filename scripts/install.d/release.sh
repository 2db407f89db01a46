# shellcheck shell=bash
# shellcheck disable=SC2154  # options.sh and lib.sh say what the names stand for
# The program: a wheel of this checkout in a virtual environment of its own, one folder a release, and `current`, a
# link that names the one in use. A release is whole when it holds `complete`; one without it is made anew.

make_release() {
  local work
  if ((dry)); then
    printf 'would: build Flowork from %s into %s/releases/…, with its Python packages\n' "$root" "$opt"
    [[ -f $root/web/dist/index.html ]] || printf 'note: the panel is not built here (web/dist), so there will be none\n'
    return
  fi
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf -- '$work'" EXIT
  copy_sources "$work/source"
  release=$opt/releases/$(name_of "$work/source")
  if [[ -e $release/complete ]]; then
    say "this version is installed already: $release"
  else
    say "building Flowork and installing its Python packages into $release (a few minutes on a small board)"
    SECONDS=0
    mkdir -p -- "$opt/releases"
    rm -rf -- "$release"
    build "$work" >"$work/log" 2>&1 || {
      tail -n 30 -- "$work/log" >&2
      rm -rf -- "$release"
      die "the program could not be installed; what ran before is as it was"
    }
    ((edge || image)) || "$release/bin/flowork-updater" seal "$release"
    sync -f "$release"
    touch -- "$release/complete"
    sync -f "$release"
    say "installed in $SECONDS s"
  fi
  rm -rf -- "$work"
  trap - EXIT
}

# copy_sources FOLDER: what a wheel is made of, with the panel if it was built.
copy_sources() {
  local name
  mkdir -p -- "$1"
  for name in appliance edge_agent drivers setup.cfg setup.py README.md LICENSE constraints.txt; do
    [[ ! -e $root/$name ]] || cp -R -- "$root/$name" "$1/"
  done
  find "$1" -name __pycache__ -prune -exec rm -rf -- {} +
  if [[ -f $root/web/dist/index.html ]]; then
    mkdir -- "$1/web"
    cp -R -- "$root/web/dist" "$1/web/"  # setup.py takes it from there
  elif ((!edge)); then
    say "the panel is not built here (web/dist): the API and the command line work without it"
  fi
}

# name_of FOLDER: a name that differs whenever the release would.
name_of() {
  {
    "$python" -c 'import sys, platform; print(sys.version, platform.machine())'
    printf '%s\n' "$edge"
    cd -- "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c 1-12
}

build() {
  local wheel
  "$python" -m venv -- "$release" &&
    (cd -- "$1/source" && pip wheel --use-pep517 --no-deps --wheel-dir "$1" .) &&
    wheel=$(echo "$1"/flowork-*.whl) &&
    if ((edge)); then
      pip install --no-deps "$wheel" && edge_packages >"$1/edge.txt" &&
        pip install -c "$1/source/constraints.txt" -r "$1/edge.txt"
    else
      pip install -c "$1/source/constraints.txt" "${wheel}[edge,backup]" &&
        cp -- "$1/source/constraints.txt" "$release/"  # for the libraries that `flowork models setup` adds
    fi &&
    chmod -R go=rX -- "$release"
}

pip() { "$release/bin/python3" -m pip --disable-pip-version-check --no-input "$@"; }

# What the extra `edge` needs, and nothing of what only the appliance needs.
edge_packages() {
  "$release/bin/python3" - <<'PY'
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires("flowork") or []:
    need = Requirement(line)
    if need.marker and need.marker.evaluate({"extra": "edge"}) and not need.marker.evaluate({"extra": ""}):
        need.marker = None
        print(need)
PY
}

# use RELEASE: the link changes in one moment.
use() {
  ln -sfn -- "$1" "$opt/current.new"
  mv -fT -- "$opt/current.new" "$opt/current"
}

# drop_others: releases that are not in use.
drop_others() {
  local one
  for one in "$opt"/releases/*; do
    [[ $one == "$(readlink -- "$opt/current")" ]] || rm -rf -- "$one"
  done
}

install_command() {
  if ((edge)); then
    put "$edge_command" 0755 <<'SH'
#!/bin/sh
# flowork-agent, as the user whom the installed agent belongs to. Made by Flowork's installer.
export FLOWORK_AGENT_DATA=/var/lib/flowork-agent
if [ "$(id -un)" = flowork ]; then
  exec /opt/flowork/current/bin/flowork-agent "$@"
elif [ "$(id -u)" = 0 ]; then
  runuser -u flowork -- /opt/flowork/current/bin/flowork-agent "$@" || exit
  # Paired: the service need not wait for its next try.
  [ "$1" != pair ] || exec systemctl --no-block restart flowork-agent.service
  exit 0
fi
exec sudo -u flowork FLOWORK_AGENT_DATA=/var/lib/flowork-agent /opt/flowork/current/bin/flowork-agent "$@"
SH
    return
  fi
  put "$command" 0755 <<'SH'
#!/bin/sh
# flowork, as the user whom the installed engine belongs to. Made by Flowork's installer.
if [ "$(id -un)" = flowork ]; then
  exec /opt/flowork/current/bin/flowork "$@"
elif [ "$(id -u)" = 0 ]; then
  exec runuser -u flowork -- /opt/flowork/current/bin/flowork "$@"
fi
exec sudo -u flowork -- /opt/flowork/current/bin/flowork "$@"
SH
  put "$updater_command" 0755 <<'SH'
#!/bin/sh
# flowork-updater, which is root's. Made by Flowork's installer.
exec /opt/flowork/current/bin/flowork-updater "$@"
SH
}
