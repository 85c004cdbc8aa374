# For scripts/boards: Debian's kernel and busybox for another architecture, unpacked (nothing is installed), and an initramfs of them.
# Sourced by bash, after common.sh.

# board_of MACHINE: sets architecture (Debian's), kernel (package), emulator, target (Rust's), interface, modules, preset
# (timing), amount (MiB).
board_of() {
    interface=eth0 preset=wifi amount=8
    modules=(virtio_mmio virtio_net virtio_blk crc32c_generic ext4)
    case $1 in
    virt) architecture=arm64 kernel=linux-image-cloud-arm64 emulator=qemu-system-aarch64 target=aarch64-unknown-linux-musl ;;
    armv7) architecture=armhf kernel=linux-image-armmp emulator=qemu-system-arm target=armv7-unknown-linux-musleabihf ;;
    raspi3b)
        architecture=arm64 kernel=linux-image-arm64 emulator=qemu-system-aarch64 target=aarch64-unknown-linux-musl
        interface=usb0
        modules=(phy_generic dwc2 usbnet cdc_ether bcm2835_wdt) # the last one can switch it off
        preset='{heartbeat: 1s, lease: 8s}' amount=1 # its USB costs the emulator so much that wifi is too short for three
        ;;
    *) die "no machine $1" 'there are: virt, raspi3b, armv7' ;;
    esac
}

# fetch DIR: the packages' contents in DIR/PACKAGE, once. apt keeps lists of the other architecture in DIR/apt: dpkg's list of
# architectures and the system's own lists stay as they are.
fetch() {
    local dir=$1 package
    local missing=()
    for package in "$kernel" busybox-static; do
        [[ -e $dir/$package/.whole ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    have apt-get && have dpkg-deb || die "no apt-get here, which fetches ${missing[*]} for $architecture" 'run this on Debian or Ubuntu'
    printf '%s▸ fetching %s for %s from Debian%s\n' "$dim" "${missing[*]}" "$architecture" "$plain"
    private_apt "$dir"
    for package in "${missing[@]}"; do unpack "$dir" "$package"; done
}

private_apt() {
    mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial"
    cat >"$1/apt.conf" <<EOF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State "$1/apt";
Dir::State::status "/dev/null";
Dir::Cache "$1/apt";
EOF
    # One list of several may be missing, as while a mirror is brought up to date: what is not to be had then is said by unpack.
    APT_CONFIG=$1/apt.conf apt-get update -qq || true
}

# unpack DIR PACKAGE: a kernel's package is the one that its unnumbered name depends on.
unpack() {
    local dir=$1 package=$2 real=$2 file
    export APT_CONFIG=$dir/apt.conf
    if [[ $package == linux-image-* ]]; then
        real=$(apt-cache depends --important "$package" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n1)
    fi
    [[ $real ]] || die "$package is not to be had for $architecture" 'are Debian'\''s own repositories in /etc/apt?'
    rm -rf "${dir:?}/$package"
    mkdir "$dir/$package"
    (cd "$dir/$package" && apt-get download -qq "$real") || die "can't download $real for $architecture"
    file=$(echo "$dir/$package/"*.deb)
    dpkg-deb -x "$file" "$dir/$package"
    rm "$file"
    unset APT_CONFIG
    touch "$dir/$package/.whole"
}

# assemble DIR MACHINE FENCE TIMING BINARY: kernel, initrd, disk.img (and board.dtb) in DIR/MACHINE.
assemble() {
    local dir=$1 out=$1/$2 fence=$3 timing=$4 binary=$5 root
    root=$out/root
    rm -rf "$out"
    mkdir -p "$root/bin" "$root/modules" "$root/etc/kube-vip"
    cp "$(echo "$dir/$kernel/boot/"vmlinuz-*)" "$out/kernel"
    [[ $2 != raspi3b ]] || cp "$(find "$dir/$kernel" -name bcm2837-rpi-3-b.dtb)" "$out/board.dtb"
    cp "$dir/busybox-static/bin/busybox" "$root/bin/"
    cp "$binary" "$root/bin/kube-vip"
    cp tests/boards/init "$root/init"
    sed -e "s/INTERFACE/$interface/" -e "s/TIMING/$timing/" tests/boards/config.yaml >"$root/etc/kube-vip/config.yaml"
    [[ $fence == no ]] || modules+=(crc32c_generic nf_tables)
    packed=' '
    : >"$root/modules/order"
    local name
    for name in "${modules[@]}"; do pack_module "$dir/$kernel" "$root/modules" "$name"; done
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$out/initrd"
    rm -rf "$root"
    truncate -s 16M "$out/disk.img"
    mke2fs -q -t ext4 "$out/disk.img"
}

# pack_module KERNEL TO NAME: the module and, before it, all that it needs; nothing where it is part of the kernel itself.
pack_module() {
    local name=${3//-/_} file needs need
    [[ $packed != *" $name "* ]] || return 0
    packed+="$name "
    file=$(find "$1/lib/modules" -name "${name//_/[-_]}.ko*" | head -n1)
    if [[ -z $file ]]; then
        grep -Eq "/${name//_/[-_]}\.ko" "$1"/lib/modules/*/modules.builtin || die "the kernel in $1 has no module $name"
        return 0
    fi
    cp "$file" "$2/"
    [[ $file != *.xz ]] || xz -d "$2/${file##*/}"
    file=${file##*/} file=${file%.xz}
    # Its section .modinfo has words that end in a NUL, depends=a,b among them.
    needs=$(grep -az '^depends=' "$2/$file" | tr -d '\0')
    needs=${needs#depends=}
    for need in ${needs//,/ }; do pack_module "$1" "$2" "$need"; done
    echo "$file" >>"$2/order"
}
