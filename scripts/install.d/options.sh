# shellcheck shell=bash
# shellcheck disable=SC2034  # read by the other parts of scripts/install
# Options, where things go, and how a step is told and done.

mode=install dry=0 edge=0 mosquitto=0 models=0 yes=0 purge=0 image=0
port="" hostname=""
account=flowork
opt=/opt/flowork
data=/var/lib/flowork
edge_data=/var/lib/flowork-agent
update_state=/var/lib/flowork-update
units=/usr/local/lib/systemd/system
dropins=/etc/systemd/system
command=/usr/local/bin/flowork
edge_command=/usr/local/bin/flowork-agent
updater_command=/usr/local/sbin/flowork-updater
tunnel_conf=/etc/flowork/tunnel.conf
announcement=/etc/avahi/services/flowork.service

read_options() {
  while (($#)); do
    case $1 in
      --dry-run) dry=1 ;;
      --edge-only) edge=1 ;;
      --image) image=1 ;;
      --with-mosquitto) mosquitto=1 ;;
      --with-models) models=1 ;;
      --uninstall) mode=remove ;;
      --purge) mode=remove purge=1 ;;
      --yes) yes=1 ;;
      --port=*) port=${1#*=} ;;
      --hostname=*) hostname=${1#*=} ;;
      --port | --hostname)
        (($# > 1)) || die "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift ;;
      -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' -- "$0"
        exit ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  if [[ -n $port ]]; then
    if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then die "--port takes a number from 1 to 65535"; fi
  fi
  if [[ -n $hostname ]]; then
    # RFC 1123: one label of a host name.
    [[ $hostname =~ ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
      die "--hostname takes lower-case letters, digits and dashes, at most 63"
  fi
}

# step TEXT COMMAND...: says what is done and does it; only says it with --dry-run.
step() {
  local text=$1
  shift
  if ((dry)); then
    printf 'would: %s\n' "$text"
  else
    say "$text"
    "$@"
  fi
}

# put FILE MODE: writes standard input to a file of root's, if it is not there with that content already.
put() {
  local file=$1 rights=$2 content old
  content=$(cat; printf .)
  content=${content%.}
  if [[ -f $file ]]; then
    old=$(cat -- "$file"; printf .)
    [[ ${old%.} != "$content" ]] || return 0
  fi
  step "write $file" write_file "$file" "$rights" "$content"
}

write_file() {
  mkdir -p -- "$(dirname -- "$1")"
  printf %s "$3" >"$1.new"
  chmod -- "$2" "$1.new"
  mv -- "$1.new" "$1"
}

# running: whether systemd runs this machine (not so in a chroot or while an image is made).
running() { [[ -d /run/systemd/system ]]; }
