#!/usr/bin/env bash
# `scripts/package --check`: the package on three machines with a real systemd, from its installation to its purge. Sourced by bash.

. "$here/scripts/lib/machine.sh"
. "$here/scripts/lib/boxes.sh"

vip=10.99.0.100
nodes=(n1 n2 n3)

# check_package DEB
check_package() {
    ((EUID == 0)) || { printf '%sSKIPPED: the package was not installed anywhere: that needs root%s\n' "$red" "$plain" && return; }
    need debootstrap=debootstrap unshare=util-linux ip=iproute2 curl=curl ssh=openssh-client python3=python3
    local home=$here/target/package/check
    mkdir -p "$home/shared"
    debian "$home/debian"
    cp "$1" "$home/shared/kube-vip.deb"
    cp "$binaries/$(target_of "$(uname -m)")/kube-vip" "$home/shared/kube-vip"
    export box_group=kube-vip-check-$$ BOX_SHARED=$home/shared
    trap box_groups_end EXIT
    unshare --mount --net --pid --fork --mount-proc --kill-child -- bash -euo pipefail -c \
        'here=$1; . "$1/scripts/lib/common.sh"; . "$1/scripts/lib/package-check.sh"; check_inside "$2"' \
        "${0##*/}" "$here" "$home"
}

# A minimal Debian 12, unpacked once.
debian() {
    [[ ! -e $1/complete ]] || return 0
    printf '%sunpacking Debian 12 into %s%s\n' "$dim" "$1" "$plain"
    rm -rf "$1"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,openssh-server,sudo bookworm "$1" >"$1.log" 2>&1 ||
        die "debootstrap failed" "$(tail -n3 "$1.log")"
    touch "$1/complete"
}

fail() {
    printf '%s✗ %s%s\n' "$red" "$1" "$plain" >&2
    for name in "${!box_pid[@]}"; do
        printf -- '---- %s\n' "$name" >&2
        on "$name" journalctl -u kube-vip --no-pager -n 40 >&2 || true
    done
    exit 1
}

said=0
ok() {
    said=$((said + 1))
    printf '%s✓ %s%s\n' "$green" "$1" "$plain"
}

has_vip() { [[ $(on "$1" ip -o addr show dev eth0 to "$vip") ]]; }

holders() {
    local name
    for name in "${nodes[@]}"; do if has_vip "$name"; then echo "$name"; fi; done
}

one_holds() { [[ $(holders | wc -l) == 1 ]]; }
one_holds_other_than() { one_holds && [[ $(holders) != "$1" ]]; }
show() { on "$1" systemctl show -P "$2" kube-vip; }
is() { [[ $(show "$1" "$2") == "$3" ]]; }
restarted() { (($(show "$1" NRestarts) > $2)); }

check_inside() {
    boxes_begin "$1/debian" "$1/boxes"
    local name
    for name in "${nodes[@]}"; do box "$name"; done
    for name in "${nodes[@]}"; do wait_for "$name has booted" 60 box_is_up "$name"; done
    ok "three machines run $(on n1 systemctl --version | head -n1)"
    installed "$1"
    formed
    confined
    forwarded "$1"
    told
    moved
    crashed
    hung
    upgraded
    removed
    by_ssh "$1"
    by_hand "$1"
    printf '\n%d passed, 0 failed\n' "$said"
}

installed() {
    local name
    for name in "${nodes[@]}"; do
        on "$name" dpkg -i /mnt/host/kube-vip.deb >"$1/dpkg.log" 2>&1 || fail "dpkg -i: $(tail -n3 "$1/dpkg.log")"
        [[ $(on "$name" systemctl is-enabled kube-vip) == enabled ]] || fail 'not enabled'
        is "$name" ActiveState inactive || fail 'started without a configuration'
        on "$name" id kube-vip >/dev/null || fail 'no user'
    done
    ok 'installed: enabled, a user made, and nothing started without a configuration'
}

configure() {
    local name=$1 others=''
    for other in "${nodes[@]}"; do [[ $other == "$name" ]] || others+="${others:+,}$other:10.99.0.${other#n}:10000"; done
    on "$name" sh -c "kube-vip sample config --interface eth0 --vip $vip --arp --localPeer $name:10.99.0.${name#n}:10000 \
        --remotePeers $others --lbName own --lbPort 80 --lbBackends 10.99.0.200:8080 |
        sed 's/^timing: lan/timing: {heartbeat: 200ms, lease: 1500ms} # one machine runs all of them/' >/etc/kube-vip/config.yaml
        chgrp kube-vip /etc/kube-vip/config.yaml; chmod 640 /etc/kube-vip/config.yaml"
}

formed() {
    local name pids=()
    for name in "${nodes[@]}"; do configure "$name"; done
    for name in "${nodes[@]}"; do
        on "$name" systemctl start kube-vip &
        pids+=($!)
    done
    wait "${pids[@]}" || fail 'systemctl start failed'
    wait_for 'one of them holds the VIP' 30 one_holds
    for name in "${nodes[@]}"; do
        is "$name" ActiveState active || fail "$name is $(show "$name" ActiveState)"
        printf '  %s: %s\n' "$name" "$(show "$name" StatusText)"
    done
    ping -c1 -W2 "$vip" >/dev/null || fail 'the VIP does not answer'
    ok 'started: systemctl returned, one node holds the VIP, each tells its role'
}

# status NAME PID KEY: a line of /proc/PID/status.
status() { on "$1" sed -n "s/^$3:[[:space:]]*//p" "/proc/$2/status"; }
keeper() { show "$1" MainPID; }
daemon() { on "$1" cat "/proc/$(keeper "$1")/task/$(keeper "$1")/children" | tr -d ' '; }
niceness() { on "$1" sed 's/.*) //' "/proc/$2/stat" | cut -d' ' -f17; }

# systemd can give limits no higher than root here may.
may_raise_limits() { (( 0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 24 & 1 )); }

# What each process may do, by the kernel's own word.
confined() {
    local name=${nodes[0]} keeper daemon pid uid
    keeper=$(keeper "$name") daemon=$(daemon "$name") uid=$(on "$name" id -u kube-vip)
    for pid in "$keeper" "$daemon"; do
        [[ $(status "$name" "$pid" Uid) == "$uid"* ]] || fail "process $pid is not the user kube-vip"
        [[ $(status "$name" "$pid" NoNewPrivs),$(status "$name" "$pid" Seccomp) == 1,2 ]] || fail "process $pid is not confined"
        [[ $(status "$name" "$pid" CapAmb) == 0000000000000000 ]] || fail "process $pid would pass capabilities on"
        [[ $(niceness "$name" "$pid") == -20 ]] || fail "process $pid does not run before ordinary work"
        ! may_raise_limits || [[ $(status "$name" "$pid" VmLck) != '0 kB' ]] || fail "process $pid has not locked its memory"
    done
    may_raise_limits || printf '  %snot tried: locked memory, because root here has no CAP_SYS_RESOURCE to raise limits%s\n' "$red" "$plain"
    [[ $(status "$name" "$keeper" CapPrm) == 0000000000003000 ]] || fail 'the keeper has other capabilities than NET_ADMIN and NET_RAW'
    [[ $(status "$name" "$daemon" CapPrm) == 0000000000000400 ]] || fail 'the daemon has other capabilities than NET_BIND_SERVICE'
    [[ $(on "$name" stat -c %U:%a /var/lib/kube-vip /run/kube-vip | paste -sd' ') == 'kube-vip:700 kube-vip:750' ]] || fail 'directories'
    [[ $(on "$name" ss -ltnH 'sport = :80') ]] || fail 'no balancer on port 80'
    on "$name" kube-vip status -c /etc/kube-vip/config.yaml >/dev/null || fail 'status does not answer'
    on "$name" journalctl -u kube-vip --no-pager -o cat >"$here/target/package/check/log"
    if grep "can't" "$here/target/package/check/log"; then fail 'something is refused to it'; fi
    grep -q 'kernel fence in place' "$here/target/package/check/log" || printf '  no kernel fence on this machine\n'
    ok 'both processes: own user, seccomp; NET_ADMIN and NET_RAW / NET_BIND_SERVICE alone'
}

# Through the balancer, enough for splice(2): the system call filter lets all of it pass.
forwarded() {
    local sum
    mkdir -p "$1/web"
    head -c 64M /dev/urandom >"$1/web/file"
    python3 -m http.server --bind 10.99.0.200 --directory "$1/web" 8080 >"$1/web.log" 2>&1 &
    wait_for 'the backend listens' 10 curl -sf -o "$1/got" http://10.99.0.200:8080/
    curl -sf --max-time 60 -o "$1/got" "http://$vip/file" || fail 'nothing comes through the balancer'
    cmp "$1/web/file" "$1/got" || fail 'other bytes came through the balancer'
    sum=$(for name in "${nodes[@]}"; do on "$name" kube-vip status --json -c /etc/kube-vip/config.yaml; done | sed -n 's/.*"bytesOut": \([0-9]*\).*/\1/p' | paste -sd+)
    (($sum >= 64 << 20)) || fail "the balancers counted $sum bytes"
    rm "$1/web/file" "$1/got"
    ok 'forwarded 64 MiB from VIP:80 to a backend, under the filter'
}

# As a member of the group kube-vip, not root.
told() {
    local holder
    holder=$(holders)
    on "$holder" useradd -G kube-vip alice
    on "$holder" setpriv --reuid alice --regid alice --init-groups kube-vip handover -c /etc/kube-vip/config.yaml || fail 'handover as alice'
    wait_for 'another holds it' 10 one_holds_other_than "$holder"
    on "$holder" setpriv --reuid alice --regid alice --init-groups kube-vip cordon -c /etc/kube-vip/config.yaml || fail 'cordon as alice'
    wait_for 'the status tells it' 5 status_tells "$holder" cordoned
    on "$holder" setpriv --reuid alice --regid alice --init-groups kube-vip uncordon -c /etc/kube-vip/config.yaml || fail 'uncordon as alice'
    ok "handover, cordon and uncordon by a member of the group kube-vip"
}

status_tells() { [[ $(show "$1" StatusText) == *"$2"* ]]; }

moved() {
    local holder
    holder=$(holders)
    on "$holder" systemctl stop kube-vip || fail 'systemctl stop failed'
    ! has_vip "$holder" || fail 'the VIP is still there'
    [[ $(show "$holder" Result) == success ]] || fail "stopped with $(show "$holder" Result)"
    wait_for 'another holds it' 10 one_holds_other_than "$holder"
    on "$holder" systemctl start kube-vip || fail 'systemctl start failed'
    ok "systemctl stop: the VIP went from $holder to $(holders)"
}

crashed() {
    local holder restarts
    for who in keeper daemon all; do
        wait_for 'one holds' 20 one_holds
        holder=$(holders) restarts=$(show "$holder" NRestarts)
        case $who in
        all) on "$holder" systemctl kill -s KILL kube-vip ;;
        *) on "$holder" kill -9 "$($who "$holder")" ;;
        esac
        wait_for "$holder is started again after kill -9 of $who" 30 restarted "$holder" "$restarts"
        wait_for "$holder is active" 30 is "$holder" ActiveState active
        wait_for 'one holds' 10 one_holds
        ok "kill -9 of $who on $holder: started again; $(holders) holds"
    done
}

hung() {
    local holder restarts begun
    wait_for 'one holds' 20 one_holds
    holder=$(holders) restarts=$(show "$holder" NRestarts) begun=$SECONDS
    on "$holder" kill -STOP "$(daemon "$holder")"
    wait_for 'another holds it' 5 one_holds_other_than "$holder"
    wait_for "the watchdog notices on $holder" 40 restarted "$holder" "$restarts"
    wait_for "$holder is active" 30 is "$holder" ActiveState active
    ok "kill -STOP of the daemon on $holder: another held at once, the watchdog had it started again after $((SECONDS - begun)) s"
}

upgraded() {
    local holder before
    wait_for 'one holds' 20 one_holds
    holder=$(holders) before=$(keeper "$holder")
    on "$holder" dpkg -i /mnt/host/kube-vip.deb >/dev/null 2>&1 || fail 'dpkg -i again'
    is "$holder" ActiveState active || fail 'not active after an upgrade'
    [[ $(keeper "$holder") != "$before" ]] || fail 'not restarted by an upgrade'
    wait_for 'one holds' 10 one_holds
    ok "upgrade on $holder: restarted, $(holders) holds"
}

removed() {
    local name left
    name=$(holders)
    on "$name" dpkg -r kube-vip >/dev/null 2>&1 || fail 'dpkg -r'
    ! has_vip "$name" || fail 'the VIP outlives the package'
    on "$name" test -e /etc/kube-vip/config.yaml || fail 'removal took the configuration'
    on "$name" test -d "/var/lib/kube-vip/$name" || fail 'removal took the state'
    wait_for 'another holds it' 10 one_holds_other_than "$name"
    ok "removed on $name: stopped, $(holders) holds, configuration and state are kept"
    for name in "${nodes[@]}"; do
        on "$name" dpkg -P kube-vip >/dev/null 2>&1 || fail 'dpkg -P'
        left=$(on "$name" find / -xdev -name '*kube-vip*' -not -path '/mnt/*' -not -path '/tmp/*' -not -path '/var/log/*')
        [[ -z $left ]] || fail "purged on $name, but left: $left"
        ! has_vip "$name" || fail 'the VIP outlives the package'
    done
    ok 'purged everywhere: no file, no address is left'
}

nothing_left() {
    local left
    left=$(on "$1" find / -xdev -name '*kube-vip*' -not -path '/mnt/*' -not -path '/var/log/*')
    [[ -z $left ]] || fail "uninstalled, but left: $left"
    ! on "$1" id kube-vip >/dev/null 2>&1 || fail 'the user is left'
    ! has_vip "$1" || fail 'the VIP is left'
}

# scripts/install over a real sshd, as a user with sudo.
by_ssh() {
    local name=n1
    on "$name" sh -c 'useradd -m -s /bin/sh pi; echo "pi ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/pi; mkdir -m 700 ~pi/.ssh'
    rm -f "$1"/key*
    ssh-keygen -q -t ed25519 -N '' -f "$1/key"
    on "$name" sh -c 'cat >~pi/.ssh/authorized_keys; chown -R pi: ~pi/.ssh' <"$1/key.pub"
    export SSH="ssh -i $1/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    local install=("$here/scripts/install" --binary "$1/shared/kube-vip") flags=(--interface eth0 --vip "$vip" --singleNode --arp)
    "${install[@]}" pi@10.99.0.1 -- "${flags[@]}" || fail 'scripts/install'
    wait_for 'n1 holds' 20 has_vip "$name"
    is "$name" ActiveState active || fail "scripts/install left it $(show "$name" ActiveState)"
    [[ $(on "$name" stat -c %U:%G:%a /etc/kube-vip/config.yaml) == root:kube-vip:640 ]] || fail 'the configuration is not root:kube-vip 640'
    ok 'scripts/install over ssh: a first configuration, enabled, started'
    if "${install[@]}" pi@10.99.0.1 -- "${flags[@]}" --lbPort 81 </dev/null; then fail 'overwritten without being asked'; fi
    has_vip "$name" || fail 'a refused installation did something'
    "${install[@]}" --yes pi@10.99.0.1 </dev/null || fail 'scripts/install again'
    wait_for 'n1 holds' 20 has_vip "$name"
    ok 'again: asks before it overwrites, keeps the configuration'
    "$here/scripts/install" --uninstall --yes pi@10.99.0.1 </dev/null || fail 'scripts/install --uninstall'
    nothing_left "$name"
    ok 'scripts/install --uninstall: nothing is left'
}

# scripts/install on the machine itself.
by_hand() {
    local name=n2 here_too=/mnt/host/repository/scripts/install
    mkdir -p "$1/shared/repository"
    cp -r "$here/scripts" "$here/configs" "$here/packaging" "$1/shared/repository"
    on "$name" "$here_too" --binary /mnt/host/kube-vip -- --interface eth0 --vip "$vip" --singleNode --arp || fail 'scripts/install'
    wait_for 'n2 holds' 20 has_vip "$name"
    on "$name" "$here_too" --uninstall --yes </dev/null || fail 'scripts/install --uninstall'
    nothing_left "$name"
    ok 'scripts/install on the machine itself, and --uninstall'
}
