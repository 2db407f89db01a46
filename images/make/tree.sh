# shellcheck shell=bash
# shellcheck disable=SC2154  # scripts/image and lib.sh say what the names stand for
# The system of a slot: Debian, Flowork by its own installer, and what makes an image of it; as one squashfs.

# packages NAME: the lines of a list, joined by commas.
packages() { sed '/^#/d;/^$/d' "$root/images/packages/$1.txt" | paste -sd,; }

# mmdebstrap with Debian's packages kept from one build to the next.
debian() {
  local kept=$cache/apt-$arch
  mkdir -p -- "$kept"
  # shellcheck disable=SC2016  # $1 is mmdebstrap's
  INITRD=No mmdebstrap --components="main non-free-firmware" --skip=download/empty --skip=essential/unlink \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives"' \
    --setup-hook="sync-in '$kept' /var/cache/apt/archives" \
    "$@" || die "Debian could not be put together; what it said is above"
}

# Firmware of chips that are in phones, routers and ARM boards only: a third of all of it.
phones=('mediatek/mt8*' 'mediatek/mt6*' 'mediatek/mt798*' 'mediatek/mt7996/*' 'ath11k/IPQ*' 'ath11k/QCN9074/*' 'ath11k/WCN6750/*'
  'ath10k/WCN3990/*' 'ath10k/QCA4019/*' 'ath10k/QCA99*' 'ath10k/QCA9888/*')

# make_base: Debian with its packages, before Flowork comes in, as the tar $base. It is kept for the rest of the day, for it
# takes most of the time where programs are emulated.
make_base() {
  local stand_ins=() key
  make_overlay
  key=$({
    date -u +%F
    printf '%s\n' "$suite" "$more" "${mirror[*]}" "${phones[@]}"
    sha256sum <"$work/overlay.tar"
    declare -f debian make_base
    cat -- "$root"/images/packages/* "$root/images/make/native"
  } | sha256sum | cut -c 1-12)
  base=$cache/debian-$arch-$key.tar
  [[ ! -e $base ]] || { say "taking Debian from $base"; return; }
  rm -f -- "$cache/debian-$arch"-*.tar
  say "making the system: Debian $suite, $arch"
  [[ -z $native ]] || stand_ins=(--essential-hook="$native put \"\$1\" '$tools'" --customize-hook="$native take \"\$1\"")
  # shellcheck disable=SC2016  # $1 is mmdebstrap's
  SOURCE_DATE_EPOCH=$overlay_date debian --variant=apt --architectures="$arch" --include="$(packages common),$(packages "$arch")$more" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
    "${phones[@]/#/--dpkgopt=path-exclude=/usr/lib/firmware/}" \
    --essential-hook="tar-in '$work/overlay.tar' /" "${stand_ins[@]}" \
    --customize-hook="sync-out /var/cache/apt/archives '$cache/apt-$arch'" \
    --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
    --skip=output/dev "$suite" "$work/base.tar" "${mirror[@]}"
  mv -- "$work/base.tar" "$base.part"
  mv -- "$base.part" "$base"
}

# make_system FILE: the slot's squashfs, and beside it the kernel and the initramfs, for the boot partition.
make_system() {
  local tar=$work/system.tar stand_ins=() back=() given="SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH VERSION=$version ARCH=$arch"
  fetch_wheels
  make_base
  if [[ -n $native ]]; then
    stand_ins=(--customize-hook="$native put \"\$1\" '$tools'")
    back=(--customize-hook="$native take \"\$1\"")
    # For what machine pip chooses.
    given+=" _PYTHON_HOST_PLATFORM=linux-aarch64"
  fi
  make_checkout
  say "making the system: Flowork $version"
  # shellcheck disable=SC2016  # $1 is mmdebstrap's
  mmdebstrap --variant=custom --architectures="$arch" --skip=update \
    --setup-hook="tar-in '$base' /" "${stand_ins[@]}" \
    --customize-hook='mkdir -p "$1/srv/flowork" "$1/srv/wheels"' \
    --customize-hook="tar-in '$work/checkout.tar' /srv/flowork" \
    --customize-hook="sync-in '$work/wheels' /srv/wheels" \
    --customize-hook="chroot \"\$1\" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root $given /srv/flowork/images/make/inside" \
    --customize-hook='chroot "$1" dpkg-query -W >'"'$work/packages'" "${back[@]}" \
    '' "$tar" || die "Flowork could not be put in; what was said is above"
  say "packing it"
  rm -f -- "$1"
  # (Given SOURCE_DATE_EPOCH it would change every file's time, and Python would compile everything anew at each start.)
  env -u SOURCE_DATE_EPOCH "${tool[@]}" "$tools/usr/bin/mksquashfs" - "$1" -tar -comp zstd -Xcompression-level 15 -b 256K \
    -no-progress -quiet -exit-on-error -mkfs-time "$SOURCE_DATE_EPOCH" -root-time "$SOURCE_DATE_EPOCH" -root-mode 0755 \
    -root-uid 0 -root-gid 0 -processors "$(nproc)" <"$tar"
  mkdir -p -- "$work/boot"
  tar -xf "$tar" -C "$work/boot" --wildcards --strip-components=2 './boot/vmlinuz-*' './boot/initrd.img-*'
  mv -- "$work"/boot/vmlinuz-* "$work/boot/vmlinuz"
  mv -- "$work"/boot/initrd.img-* "$work/boot/initrd.img"
  if [[ $arch == arm64 ]]; then
    mkdir -p -- "$work/dtb"
    tar -xf "$tar" -C "$work/dtb" --wildcards --no-anchored --strip-components=5 \
      './usr/lib/linux-image-*/broadcom/bcm2837*' './usr/lib/linux-image-*/broadcom/bcm2711*' \
      './usr/lib/linux-image-*/broadcom/bcm2712*'
  fi
  rm -f -- "$tar"
}

# The files of images/files, as root's; as a tar, for who builds need not be root.
make_overlay() {
  local tree=$work/overlay
  mkdir -p -- "$tree/etc"
  (cd -- "$root" && git ls-files -z images/files) | (cd -- "$root" && tar --null -T - -c) |
    tar -x -C "$tree" --strip-components=2
  find "$tree" -type d -exec chmod 0755 {} +
  find "$tree" -type f -exec chmod go=rX {} +
  chmod 0440 "$tree/etc/sudoers.d/flowork"
  overlay_date=$(git -C "$root" log -1 --format=%ct -- images/files)
  SOURCE_DATE_EPOCH=$overlay_date plain_tar "$tree" >"$work/overlay.tar"
}

# The checkout as it is committed or about to be, with the panel that was built.
make_checkout() {
  (cd -- "$root" && {
    git ls-files -z -- appliance edge_agent drivers scripts systemd images setup.cfg setup.py README.md LICENSE constraints.txt
    [[ ! -d web/dist ]] || find web/dist -type f -print0
  } | LC_ALL=C sort -z | tar --null -T - -c --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner) >"$work/checkout.tar"
}

# plain_tar FOLDER: in which nothing tells who packed it, or when.
plain_tar() {
  tar -C "$1" -c --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu .
}

# Python's packages for the system's own Python, pinned by constraints.txt; the installer takes them from there.
fetch_wheels() {
  local kept=$cache/wheels-$arch machine=x86_64 platforms=() glibc
  [[ $arch == amd64 ]] || machine=aarch64
  mkdir -p -- "$kept" "$work/wheels"
  for glibc in 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_39; do platforms+=(--platform "manylinux_${glibc}_$machine"); done
  platforms+=(--platform "manylinux2014_$machine" --platform "linux_$machine")
  say "fetching Python packages for $arch"
  (cd -- "$root" && python3 - edge backup <<'PY'
import configparser, sys
config = configparser.ConfigParser()
config.read("setup.cfg")
known = config["options.extras_require"]
print(config["options"]["install_requires"], *(known[name] for name in sys.argv[1:]), "setuptools", "wheel", sep="\n")
PY
  ) >"$work/requirements"
  python3 -m pip download --quiet --quiet --disable-pip-version-check --dest "$kept" --only-binary :all: \
    --python-version "$python" "${platforms[@]}" -c "$root/constraints.txt" -r "$work/requirements"
  # Only what this build asks for, of the many that the cache has seen.
  python3 -m pip download --quiet --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary :all: \
    --no-index --find-links "$kept" --python-version "$python" "${platforms[@]}" -c "$root/constraints.txt" \
    -r "$work/requirements"
}
