# Shared by the scripts here: what is missing and how to get it, and whether namespaces may be made. Sourced by bash.

export LC_ALL=C # numbers with points, messages as grep expects them

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

die() {
    printf '%s%s: %s%s\n' "$red" "${0##*/}" "$1" "$plain" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# need "COMMAND=PACKAGE PACKAGE…" …: installs the packages of commands that are missing (root), or names them (anybody else).
need() {
    PATH=$PATH:/usr/sbin:/sbin # a plain user's PATH on Debian has no sbin
    local pair packages=()
    for pair in "$@"; do
        # shellcheck disable=SC2206 # several packages of one command are several words
        have "${pair%%=*}" || packages+=(${pair#*=})
    done
    ((${#packages[@]})) || return 0
    if ((EUID == 0)) && have apt-get; then
        printf '%sinstalling %s%s\n' "$dim" "${packages[*]}" "$plain"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    else
        die "missing: ${packages[*]}" "install with: sudo apt-get install ${packages[*]}"
    fi
}

# A Rust toolchain new enough for this crate. Debian's own is too old, so this one is named, not installed.
need_rust() {
    [[ ! -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    have cargo || die "no Rust toolchain (cargo)" \
        "install one: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" \
        "then run ${0} again"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n1) == "$wanted" ]] ||
        die "Rust $found is too old, $wanted or newer is needed" "update: rustup update stable"
    need 'cc=gcc libc6-dev'
}

# Options of unshare(1) for a private little network, the same for root and for plain users.
unshare_options=(--user --map-root-user --mount --net --pid --fork --mount-proc --kill-child)

need_namespaces() {
    need unshare=util-linux ip=iproute2
    local said advice=() name
    said=$(unshare "${unshare_options[@]}" -- sh -c 'mount -t tmpfs tmpfs /run && ip link show' 2>&1 >/dev/null) && return 0
    name=kernel/apparmor_restrict_unprivileged_userns
    [[ $(cat /proc/sys/$name 2>/dev/null) != 1 ]] || advice+=("as root: sysctl -w ${name//\//.}=0")
    name=kernel/unprivileged_userns_clone
    [[ $(cat /proc/sys/$name 2>/dev/null) != 0 ]] || advice+=("as root: sysctl -w ${name//\//.}=1")
    name=user/max_user_namespaces
    [[ $(cat /proc/sys/$name 2>/dev/null) != 0 ]] || advice+=("as root: sysctl -w ${name//\//.}=15000")
    die "this machine refuses the private network namespaces that this runs in: $said" "${advice[@]}" \
        "in a container: docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN …"
}
