# shellcheck shell=bash
# shellcheck disable=SC2154  # options.sh and lib.sh say what the names stand for
# The units: put in place, adapted to this machine, enabled, started, and taken back if they do not come up.

agent_unit=flowork-agent.service
appliance_units=(flowork.target flowork-init.service flowork-again.service flowork-gateway.socket
  flowork-gateway.service flowork-kernel.service flowork-models.socket flowork-models.service flowork-update.path
  flowork-update.service flowork-update-look.timer flowork-update-look.service flowork-tunnel.service "$agent_unit")
# Groups of Debian and Raspberry Pi OS to whom devices belong.
device_groups=(gpio dialout i2c spi video input plugdev)

install_units() {
  local name wanted=("${appliance_units[@]}")
  if ((edge)); then
    wanted=("$agent_unit")
    alone
  else
    growing_pauses flowork-gateway.service
    growing_pauses flowork-kernel.service
    set_port
  fi
  device_rights
  for name in "${wanted[@]}"; do
    put "$units/$name" 0644 <"$root/systemd/$name"
  done
}

# The agent without an appliance: its own data, its own program, and patience until it is paired.
alone() {
  put "$dropins/$agent_unit.d/50-flowork-alone.conf" 0644 <<INI
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=
ExecStart=/opt/flowork/current/bin/flowork-agent run
StateDirectory=
StateDirectory=$(basename -- "$edge_data")
Environment=FLOWORK_AGENT_DATA=$edge_data
RestartSec=30
# A version that came from the appliance is a child of the launcher for as long as it is on trial.
NotifyAccess=all
INI
}

# Pauses between restarts that grow: known to systemd since version 254.
growing_pauses() {
  (($(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') >= 254)) || return 0
  put "$dropins/$1.d/50-flowork-pauses.conf" 0644 <<'INI'
[Service]
# From 1 s to 1 min in six steps.
RestartSteps=6
RestartMaxDelaySec=1min
INI
}

port_file() { printf '%s' "$dropins/flowork-gateway.socket.d/50-flowork-port.conf"; }

port_now() {
  local found
  found=$(sed -n 's/^ListenStream=\([0-9][0-9]*\)$/\1/p' "$(port_file)" 2>/dev/null || true)
  printf '%s' "${found:-5000}"
}

set_port() {
  [[ -n $port && $port != "$(port_now)" ]] || return 0
  put "$(port_file)" 0644 <<INI
[Socket]
# The first line takes the port of the unit itself away.
ListenStream=
ListenStream=$port
INI
  port_changed=1
}

# The agent may use the devices of the groups that there are; a group that is missing would keep it from starting.
device_rights() {
  local group here=()
  for group in "${device_groups[@]}"; do
    ! getent group "$group" >/dev/null || here+=("$group")
  done
  put "$dropins/$agent_unit.d/50-flowork-devices.conf" 0644 <<INI
[Service]
# Who may use serial ports, pins, buses and cameras here.
SupplementaryGroups=${here[*]}
INI
}

# first_key: on a terminal the owner's key is shown where it is made, and nowhere else.
first_key() {
  ((!edge && !image)) && [[ ! -e $data/flowork.db ]] || return 0
  step "make the engine: keys, database, an example flow" make_engine
}

make_engine() { as_account "$release/bin/flowork" init | grep -v '^start it with'; }

start_all() {
  local wanted=()
  if ((edge)); then wanted=("$agent_unit"); else wanted=(flowork.target flowork-update.service); fi
  if ((dry)); then
    printf 'would: point %s/current at the new release, and start %s at every boot\n' "$opt" "${wanted[*]}"
    return
  fi
  local before
  before=$(readlink -- "$opt/current" || true)
  use "$release"
  if ! running; then
    systemctl --quiet enable "${wanted[@]}"
    say "systemd does not run here: it starts at the next boot"
    drop_others
    return
  fi
  systemctl daemon-reload
  systemctl --quiet enable "${wanted[@]}"
  if [[ $before == "$release" && -z ${port_changed:-} ]] && systemctl --quiet is-active "${wanted[@]}"; then
    say "it runs already"
    return
  fi
  say "starting ${wanted[*]}"
  if come_up "${wanted[@]}"; then
    drop_others
    return
  fi
  journalctl --no-pager -n 30 -u 'flowork*' >&2 || true
  if [[ -n $before && $before != "$release" && -e $before/complete ]]; then
    say "it does not come up: going back to the release before"
    use "$before"
    come_up "${wanted[@]}" || die "the release before does not come up either; see journalctl -u 'flowork*'"
    die "the new release does not come up (its log is above); the one before runs again"
  fi
  die "it does not come up; its log is above, and in journalctl -u 'flowork*'"
}

# come_up UNIT...: starts everything anew; done once they really answer, for that is when they notify systemd.
come_up() {
  stop_all
  if ((edge)); then
    # It is up once it is paired, which may be days.
    systemctl start --no-block "$@"
    return
  fi
  local name now=()
  for name in "${appliance_units[@]:1}"; do
    # Not what others start: the model host, the updater and its look for a release, another try, a tunnel.
    case $name in
      flowork-again.service | flowork-models.service | flowork-update.service | flowork-update-look.service | flowork-tunnel.service) ;;
      *) now+=("$name") ;;
    esac
  done
  systemctl start "${now[@]}" && systemctl start "$@"
}

farewell() {
  ((!dry && !image)) || return 0
  if ((edge)); then
    if [[ -e $edge_data/paired.json ]]; then
      say "the edge agent runs: journalctl -fu flowork-agent"
    else
      say "pair it: \`flowork agent pair NAME\` on the appliance, then here: sudo flowork-agent pair CODE"
    fi
    return
  fi
  local name number
  name=$(uname -n)
  number=$(port_now)
  if [[ -e $announcement ]]; then
    say "panel: http://$name.local:$number  or  http://localhost:$number"
  else
    say "panel: http://localhost:$number"
  fi
  say "your key, to sign in with: sudo flowork key show   ·   is all well: sudo flowork doctor"
}
