# shellcheck shell=bash
# shellcheck disable=SC2154  # options.sh and lib.sh say what the names stand for
# --uninstall and --purge: takes away what scripts/install has made, and nothing else.

remove_all() {
  ((!purge)) || sure
  local name
  if running; then
    step "stop Flowork" stop_all
  fi
  step "have nothing of it started at boot" disable_all
  for name in "${appliance_units[@]}"; do
    [[ ! -e $units/$name ]] || step "remove $units/$name" rm -f -- "$units/$name"
    if [[ -d $dropins/$name.d ]]; then
      step "remove what the installer put into $dropins/$name.d" remove_dropins "$dropins/$name.d"
    fi
  done
  if ((!dry)) && [[ -d $units ]]; then
    rmdir --ignore-fail-on-non-empty -- "$units" "$(dirname -- "$units")"
  fi
  ! running || step "have systemd forget the units" systemctl daemon-reload
  for name in "$announcement" "$command" "$edge_command" "$updater_command"; do
    [[ ! -e $name ]] || step "remove $name" rm -f -- "$name"
  done
  for name in "$opt" "$update_state"; do
    [[ ! -d $name ]] || step "remove $name" rm -rf -- "$name"
  done
  # The key of a tunnel is as much yours as the data.
  for name in "$data" "$edge_data" "$tunnel_conf"; do
    [[ -e $name ]] || continue
    if ((purge)); then
      step "remove $name with all that is in it" rm -rf -- "$name"
      ((dry)) || [[ $name != "$tunnel_conf" ]] || rmdir --ignore-fail-on-non-empty -- "$(dirname -- "$name")"
    else
      say "$name is still there; --purge deletes it too"
    fi
  done
  ! getent passwd "$account" >/dev/null || step "remove the user $account" userdel "$account"
}

sure() {
  local answer=
  [[ -d $data || -d $edge_data ]] || return 0
  ((!yes && !dry)) || return 0
  [[ -t 0 ]] || die "--purge deletes $data with all flows, runs and keys; say --yes to mean it"
  read -r -p "This deletes $data with all flows, runs and keys. Type yes: " answer
  [[ $answer == yes ]] || die "nothing was changed"
}

stop_all() {
  local name
  for name in flowork.target flowork-again.service flowork-update.path flowork-update-look.timer \
    flowork-update-look.service flowork-update.service flowork-tunnel.service "$agent_unit" flowork-gateway.socket \
    flowork-gateway.service flowork-models.socket \
    flowork-models.service flowork-kernel.service flowork-init.service; do
    systemctl stop "$name" 2>/dev/null || true
  done
  systemctl reset-failed 'flowork*' 2>/dev/null || true
}

disable_all() {
  systemctl --quiet disable flowork.target 2>/dev/null || true
  systemctl --quiet disable "$agent_unit" 2>/dev/null || true
  systemctl --quiet disable flowork-update.service 2>/dev/null || true
  systemctl --quiet disable flowork-tunnel.service 2>/dev/null || true
}

# Only the installer's own files; with --purge what was added by `systemctl edit` too.
remove_dropins() {
  rm -f -- "$1"/50-flowork-*.conf
  if ((purge)); then
    rm -rf -- "$1"
  else
    rmdir --ignore-fail-on-non-empty -- "$1"
  fi
}
