#!/bin/sh
# The part of scripts/install that runs on the machine itself, where there may be no bash. Beside it lie what is to be installed:
# kube-vip, kube-vip.service, sysusers.conf, and config.yaml where there is one to install.
#   setup.sh probe                 what would be overwritten, one line each: "overwrites PATH", "keeps PATH", "refuses WHY"
#   setup.sh install               puts all in place, enables and starts it (root)
#   setup.sh found                 what is installed, one path a line
#   setup.sh uninstall [state]     takes it away, with `state` also configuration, vote and log (root)
set -eu

here=$(dirname "$0")
program=/usr/local/bin/kube-vip
unit=/etc/systemd/system/kube-vip.service
config=/etc/kube-vip/config.yaml
state=/var/lib/kube-vip

main() {
    case ${1:-} in
    probe) probe ;;
    install) install_all ;;
    found) found ;;
    uninstall) uninstall "${2:-}" ;;
    *) sed -n '2,7s/^# *//p' "$0" >&2 && exit 64 ;;
    esac
}

fail() {
    echo "kube-vip: $*" >&2
    exit 1
}

probe() {
    [ -d /run/systemd/system ] || echo "refuses this machine runs no systemd; for OpenWrt there is configs/kube-vip.procd"
    ! packaged || echo "refuses the Debian package kube-vip is installed: apt-get install a newer one, or apt-get purge it"
    "$here/kube-vip" version >/dev/null 2>&1 || echo "refuses the program does not run on this machine ($(uname -m))"
    overwrites "$here/kube-vip" "$program"
    overwrites "$here/kube-vip.service" "$unit"
    if [ ! -e "$here/config.yaml" ]; then
        [ ! -e "$config" ] || echo "keeps $config"
    else
        overwrites "$here/config.yaml" "$config"
        "$here/kube-vip" check -c "$here/config.yaml" >&2 || echo 'refuses this configuration does not pass the check'
    fi
}

packaged() { [ -e /usr/lib/systemd/system/kube-vip.service ]; }

# A file that can't be read counts as another one.
overwrites() {
    [ ! -e "$2" ] || cmp -s "$1" "$2" || echo "overwrites $2"
}

install_all() {
    [ "$(id -u)" = 0 ] || fail 'root is needed to install'
    user
    put "$here/kube-vip" "$program" 755
    put "$here/kube-vip.service" "$unit" 644
    mkdir -p "${config%/*}"
    chmod 755 "${config%/*}"
    if [ -e "$here/config.yaml" ]; then put "$here/config.yaml" "$config" 640 kube-vip; fi
    systemctl daemon-reload
    systemctl enable --quiet kube-vip.service
    start
}

user() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$here/sysusers.conf"
    elif ! id kube-vip >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin kube-vip
    fi
}

# put FROM TO MODE [GROUP]: whole or not at all, also while the old one runs.
put() {
    if cmp -s "$1" "$2"; then return 0; fi
    mkdir -p "${2%/*}"
    cp "$1" "$2.new"
    chown "root:${4:-root}" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
    echo "installed $2"
}

start() {
    if systemctl --quiet is-active kube-vip.service; then
        systemctl restart kube-vip.service
        echo 'restarted kube-vip.service'
    elif [ ! -e "$config" ]; then
        echo "not started: write $config first (kube-vip sample config), then: systemctl start kube-vip"
    elif "$program" check --here -c "$config"; then
        systemctl start kube-vip.service
        echo "started kube-vip.service: $(systemctl show -P StatusText kube-vip.service)"
    else
        echo "not started: mend $config, then: systemctl start kube-vip"
    fi
}

found() {
    for path in "$program" "$unit" "$unit.d" "${config%/*}" "$state"; do
        [ ! -e "$path" ] || echo "$path"
    done
    ! id kube-vip >/dev/null 2>&1 || echo 'the user kube-vip'
}

uninstall() {
    [ "$(id -u)" = 0 ] || fail 'root is needed to uninstall'
    if packaged; then fail 'kube-vip is installed here as a Debian package: apt-get remove kube-vip, or purge'; fi
    if [ -e "$unit" ]; then systemctl disable --quiet --now kube-vip.service; fi
    # A crash may have left it, and the unit's own ExecStopPost may have failed.
    if [ -x "$program" ] && [ -e "$config" ]; then "$program" cleanup -c "$config" || true; fi
    rm -f "$unit" "$program"
    rm -rf "$unit.d" /run/kube-vip
    systemctl daemon-reload
    systemctl reset-failed kube-vip.service 2>/dev/null || true
    if [ "$1" = state ]; then
        rm -rf "${config%/*}" "$state"
        if id kube-vip >/dev/null 2>&1; then userdel kube-vip; fi
    fi
    left=$(found)
    if [ -n "$left" ]; then echo "left: $left"; else echo 'nothing is left'; fi
}

main "$@"
