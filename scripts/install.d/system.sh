# shellcheck shell=bash
# shellcheck disable=SC2154  # options.sh and lib.sh say what the names stand for
# What the rest stands on: the machine itself, Debian's packages, the user, the data folder.

check_machine() {
  command -v apt-get >/dev/null || die "this is for Debian, Ubuntu and Raspberry Pi OS; elsewhere use ./scripts/run"
  command -v systemctl >/dev/null || die "systemd is needed; without it use ./scripts/run"
  python=$(find_python)
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) say "WARNING: for $(uname -m) not all packages are there ready-made: a 64-bit system is better" ;;
  esac
  local free
  free=$(df --output=avail -k /opt 2>/dev/null | tail -n 1 || df --output=avail -k / | tail -n 1)
  ((free > 400000)) || die "$((free / 1024)) MB are left on the disk of /opt; 400 MB are needed"
  if ((!edge)) && [[ ! -d $opt ]] && running && port_taken; then
    die "port ${port:-5000} is in use by another program; choose another with --port"
  fi
}

port_taken() {
  "$python" - "${port:-5000}" <<'PY'
import socket, sys
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("", int(sys.argv[1])))
    except OSError:
        sys.exit(0)
sys.exit(1)
PY
}

install_packages() {
  local wanted=() missing=() package
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    wanted+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
  # Scripts of flows are locked away by it.
  ((edge)) || wanted+=(bubblewrap)
  ((!mosquitto)) || wanted+=(mosquitto)
  # What the engine for models is compiled with.
  ((!models)) || wanted+=(g++)
  for package in "${wanted[@]}"; do
    has_package "$package" || missing+=("$package")
  done
  if ((${#missing[@]})); then
    step "install with apt: ${missing[*]}" apt_install "${missing[@]}" || die "apt could not install ${missing[*]}"
  fi
}

has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

make_user() {
  getent passwd "$account" >/dev/null ||
    step "make the user $account, who can sign in nowhere" \
      useradd --system --user-group --no-create-home --home-dir "$(data_here)" --shell /usr/sbin/nologin "$account"
}

data_here() { if ((edge)); then printf %s "$edge_data"; else printf %s "$data"; fi; }

make_data() {
  local folder owner
  folder=$(data_here)
  owner=$(stat -c %U:%G "$folder" 2>/dev/null || true)
  [[ $owner == "$account:$account" ]] || step "make $folder, for the user $account alone" own_data "$folder"
}

# What an earlier installation left has the number of a user that is gone.
own_data() {
  mkdir -p -- "$1"
  chmod 0700 -- "$1"
  chown -R -- "$account:$account" "$1"
}

# as_account COMMAND...: as the user of the units.
as_account() { runuser -u "$account" -- env -i PATH=/usr/bin:/bin LANG=C.UTF-8 FLOWORK_DATA="$data" HOME="$data" "$@"; }

set_hostname() {
  local old
  old=$(uname -n)
  printf '%s\n' "$hostname" >/etc/hostname
  ! running || hostname "$hostname" 2>/dev/null || hostnamectl set-hostname "$hostname"
  [[ -e /etc/hosts ]] || printf '127.0.0.1\tlocalhost\n' >/etc/hosts
  if [[ -n $old ]] && grep -q "^127\.0\.1\.1[[:space:]]*$old\$" /etc/hosts; then
    sed -i "s/^127\.0\.1\.1[[:space:]]*$old\$/127.0.1.1\t$hostname/" /etc/hosts
  elif ! grep -q "^127\.0\.1\.1[[:space:]]*$hostname\$" /etc/hosts; then
    printf '127.0.1.1\t%s\n' "$hostname" >>/etc/hosts
  fi
}

# announce: the host name, and what Avahi tells the network.
announce() {
  if [[ -n $hostname && $hostname != "$(uname -n)" ]]; then
    step "call this machine $hostname" set_hostname
    ! running || step "have the network know that name" systemctl try-restart avahi-daemon.service
  fi
  ((!edge)) || return 0
  if [[ -d /etc/avahi/services ]]; then
    put "$announcement" 0644 <<XML
<?xml version="1.0" standalone="no"?>
<!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<!-- The panel in lists of web pages on this network. Made by Flowork's installer. -->
<service-group>
  <name replace-wildcards="yes">Flowork on %h</name>
  <service>
    <type>_http._tcp</type>
    <port>${port:-$(port_now)}</port>
  </service>
</service-group>
XML
  elif ((!dry)); then
    say "no Avahi here, so no name on the network: apt install avahi-daemon, then run this again"
  fi
}

# want_models: the kernel makes the model engine, in the background.
want_models() {
  ((models && !edge)) || return 0
  step "have the engine for models made in the background" \
    as_account "${release:-}/bin/flowork" settings set models_setup=on
}
