# shellcheck shell=bash
# shellcheck disable=SC2154  # scripts/image, lib.sh and layout.py say what the names stand for
# The disk: partitions in a file, each made as a file of its own and put where it belongs. Nothing is mounted.

# What packs the system and what the boot loader is made of, from the same release of Debian as the system.
unpack_tools() {
  tools=$work/tools
  say "fetching the boot loader and the tools that pack"
  local needed architectures=amd64
  [[ $arch == amd64 ]] || architectures=amd64,arm64
  mkdir -p -- "$tools"
  debian --variant=extract --architectures="$architectures" --include="$(packages "tools-$arch")" \
    --customize-hook="sync-out /var/cache/apt/archives '$cache/apt-$arch'" "$suite" "$work/tools.tar" "${mirror[@]}"
  tar -xf "$work/tools.tar" -C "$tools"
  rm -f -- "$work/tools.tar"
  for needed in usr/bin/grub-mkimage usr/bin/mksquashfs usr/lib64/ld-linux-x86-64.so.2; do
    [[ -e $tools/$needed ]] || die "$needed was not found among Debian's packages"
  done
  # Started with their own libraries.
  tool=("$tools/usr/lib64/ld-linux-x86-64.so.2" --library-path "$tools/usr/lib/x86_64-linux-gnu")
}

mkimage() { "${tool[@]}" "$tools/usr/bin/grub-mkimage" "$@"; }

# make_boot FILE: the FAT partition.
make_boot() {
  local tree=$work/fat modules sector early=$work/early.cfg
  mkdir -p -- "$tree/flowork/a" "$tree/flowork/b" "$tree/EFI/BOOT"
  sed -e "s/@PART_A@/$system_a_partuuid/" -e "s/@PART_B@/$system_b_partuuid/" "$root/images/grub/grub.cfg.in" \
    >"$tree/flowork/grub.cfg"
  python3 "$root/images/make/envblock.py" slot=a >"$tree/flowork/slots.env"
  cp -- "$work/boot/vmlinuz" "$work/boot/initrd.img" "$tree/flowork/a/"
  printf 'version=%s\narch=%s\n' "$version" "$arch" >"$tree/flowork/a/image"
  # With Windows' ends of lines: it is opened there.
  sed 's/$/\r/' "$root/images/flowork.toml" >"$tree/flowork.toml"
  # The volume's id, as GRUB writes it.
  printf 'search --no-floppy --fs-uuid --set=root %s-%s\nconfigfile /flowork/grub.cfg\n' \
    "${volume_id:0:4}" "${volume_id:4}" >"$early"
  modules=(part_gpt part_msdos fat search search_fs_uuid normal configfile loadenv test echo linux sleep reboot minicmd
    gzio all_video)
  if [[ $arch == amd64 ]]; then
    mkimage -O i386-pc -d "$tools/usr/lib/grub/i386-pc" -p /flowork -c "$early" -o "$work/core.img" biosdisk vga "${modules[@]}"
    # Debian's signed chain, for machines with Secure Boot. GRUB looks for its configuration in /EFI/debian.
    cp -- "$tools/usr/lib/shim/shimx64.efi.signed" "$tree/EFI/BOOT/BOOTX64.EFI"
    cp -- "$tools/usr/lib/shim/mmx64.efi.signed" "$tree/EFI/BOOT/mmx64.efi"
    cp -- "$tools/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$tree/EFI/BOOT/grubx64.efi"
    mkdir -- "$tree/EFI/debian"
    cp -- "$early" "$tree/EFI/debian/grub.cfg"
  else
    mkimage -O arm64-efi -d "$tools/usr/lib/grub/arm64-efi" -p /flowork -c "$early" -o "$tree/EFI/BOOT/BOOTAA64.EFI" \
      fdt "${modules[@]}"
    # The firmware starts U-Boot, which is UEFI enough for GRUB.
    cp -- "$tools"/usr/lib/raspi-firmware/{bootcode.bin,start*.elf,fixup*.dat} "$tree/"
    rm -f -- "$tree"/start*{db,_x,cd,4x}.elf "$tree"/fixup*{db,_x,cd,4x}.dat
    cp -- "$tools/usr/lib/u-boot/rpi_arm64/u-boot.bin" "$tree/u-boot.bin"
    cp -- "$work"/dtb/*.dtb "$tree/"
    sed 's/$/\r/' "$root/images/config.txt" >"$tree/config.txt"
  fi
  find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  rm -f -- "$1"
  truncate --size="${boot_size}M" "$1"
  # FAT32 wherever the size allows: a Pi's firmware and old UEFIs are pleased by it.
  # --invariant: else the label has the time of now. It also fixes the volume's id, which is put right in the boot sector
  # and in its copy (BS_VolID of FAT32).
  mkfs.vfat -F 32 -n FLOWORK --invariant "$1" >/dev/null
  for sector in 0 6; do
    little "$((16#$volume_id))" 4 | dd of="$1" bs=1 seek="$((sector * 512 + 67))" conv=notrunc status=none
  done
  (
    cd -- "$tree"
    shopt -s nullglob
    entries=(*)  # sorted by the shell
    TZ=UTC LC_ALL=C mcopy -i "$1" -s -m -Q "${entries[@]}" ::
  )
}

# make_data FILE: the file system that grows on the box; empty but for the model, if there is one.
make_data() {
  local tree=$work/data
  mkdir -p -- "$tree"
  if [[ -n $model ]]; then
    mkdir -p -- "$tree/flowork/models"
    ln -f -- "$model" "$tree/flowork/models/" 2>/dev/null || cp -- "$model" "$tree/flowork/models/"
    [[ ! -e ${model%.gguf}.json ]] || cp -- "${model%.gguf}.json" "$tree/flowork/models/"
    chmod 0700 "$tree/flowork" "$tree/flowork/models"
    chmod 0600 "$tree"/flowork/models/*
    # The box's own user, whose number is fixed (images/files/etc/sysusers.d).
    ((EUID != 0)) || chown -R 800:800 "$tree/flowork"
    find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  fi
  rm -f -- "$1"
  truncate --size="${data_size}M" "$1"
  # A journal and blocks for a large disk, though it is small now; every time that it notes is the build's.
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -I 256 -i 16384 -J size=32 -m 1 -L flowork-data \
    -U "$data_uuid" -E "hash_seed=$data_uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard" \
    -d "$tree" "$1"
  # It takes the times of change from the files here, which nobody can set.
  find "$tree" -mindepth 1 -printf '/%P\n' | LC_ALL=C sort | while read -r name; do
    printf 'set_inode_field "%s" %s\n' "$name" "ctime @$SOURCE_DATE_EPOCH" "$name" "ctime_extra 0" \
      "$name" "crtime @$SOURCE_DATE_EPOCH" "$name" "crtime_extra 0"
  done >"$work/times"
  [[ ! -s $work/times ]] || E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f "$work/times" "$1" >/dev/null 2>&1
}

# put_at FILE MIB: into the image, keeping its holes.
put_at() { dd if="$1" of="$image" bs=1M seek="$2" conv=notrunc,sparse status=none; }

# make_disk SYSTEM: all of it, in $image.
make_disk() {
  local system=$1 size
  size=$(stat -c %s "$system")
  ((size <= system_a_size * 1048576)) || die "the system has $((size >> 20)) MiB, more than a slot's $system_a_size"
  make_boot "$work/fat.img"
  make_data "$work/data.img"
  rm -f -- "$image"
  truncate --size="${disk_size}M" "$image"
  python3 "$root/images/make/layout.py" sfdisk "$arch" "$seed" "$data_size" | sfdisk --quiet "$image"
  put_at "$work/fat.img" "$boot_start"
  put_at "$system" "$system_a_start"
  put_at "$work/data.img" "$data_start"
  if [[ $arch == amd64 ]]; then bios_loader; fi
}

# What grub-bios-setup does on a mounted disk: GRUB's first sector, told where the rest of it lies.
bios_loader() {
  local boot=$tools/usr/lib/grub/i386-pc/boot.img core=$work/core.img at=$((bios_start * 2048))
  (($(stat -c %s "$core") <= bios_size * 1048576)) || die "GRUB is too large for its partition"
  # boot.S: 440 bytes of code; at 0x5c the sector of the core. diskboot.S: the first sector's last entry, at 0x1f4, is where
  # the rest of the core begins.
  little "$((at + 1))" 8 >"$work/rest"
  dd if="$work/rest" of="$core" bs=1 seek=500 conv=notrunc status=none
  dd if="$boot" of="$image" bs=440 count=1 conv=notrunc status=none
  little "$at" 8 | dd of="$image" bs=1 seek=92 conv=notrunc status=none
  dd if="$core" of="$image" bs=1M seek="$bios_start" conv=notrunc status=none
}

# little NUMBER LENGTH: as so many bytes, the lowest first.
little() { python3 -c 'import sys; sys.stdout.buffer.write(int(sys.argv[1]).to_bytes(int(sys.argv[2]), "little"))' "$1" "$2"; }
