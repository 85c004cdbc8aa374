#!/usr/bin/env bash
# Machines with a real systemd as process 1, each in its own namespaces over one unpacked Debian, on one bridge. Sourced by bash, inside
#   unshare --mount --net --pid --fork --mount-proc --kill-child
# as root. All of it ends with that PID namespace, but for the control groups: box_groups_end, outside.

# boxes_begin ROOT DIRECTORY: the unpacked Debian, and where to keep what is made.
boxes_begin() {
    box_root=$1 box_home=$2 box_count=0
    declare -gA box_pid=()
    mount --make-rprivate /
    mkdir -p "$box_home/cgroup"
    mount -t cgroup2 cgroup2 "$box_home/cgroup"
    mkdir -p "$box_home/cgroup/$box_group"
    ip link set lo up
    ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip addr add 10.99.0.200/24 dev br0
    ip link set br0 up
}

# The name of all boxes' control groups: known inside and outside.
box_groups_end() {
    local at
    at=$(mktemp -d)
    mount -t cgroup2 cgroup2 "$at"
    find "$at/$box_group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    umount "$at"
    rmdir "$at"
}

# box NAME: boots one, as 10.99.0.N; box_is_up NAME: whether its systemd has started everything.
box() {
    local name=$1 outer
    box_count=$((box_count + 1))
    mkdir -p "$box_home/$name" "$box_home/cgroup/$box_group/$name"
    (
        echo "$BASHPID" >"$box_home/cgroup/$box_group/$name/cgroup.procs"
        exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child -- \
            bash -euc "$(declare -f box_inside); box_inside \"\$@\"" - "$name" "$box_root" "$box_home/$name"
    ) >"$box_home/$name.log" 2>&1 </dev/null &
    outer=$!
    until box_pid[$name]=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null) && [[ ${box_pid[$name]} ]]; do
        kill -0 "$outer" 2>/dev/null || die "$name did not boot" "$(tail -n3 "$box_home/$name.log")"
        sleep 0.05
    done
    box_pid[$name]=${box_pid[$name]// /}
    ip link add "p$box_count" type veth peer name eth0 netns "${box_pid[$name]}"
    ip link set "p$box_count" master br0 up
    nsenter -t "${box_pid[$name]}" -n ip addr add "10.99.0.$box_count/24" dev eth0
    nsenter -t "${box_pid[$name]}" -n ip link set eth0 up
    nsenter -t "${box_pid[$name]}" -n ip link set lo up
}

box_is_up() {
    [[ $(readlink "/proc/${box_pid[$1]}/exe") == */systemd ]] || return 1
    [[ $(on "$1" systemctl is-system-running 2>/dev/null) == @(running|degraded) ]]
}

box_inside() {
    local name=$1 r=$3/root d
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$3"
    mkdir "$3/up" "$3/work" "$r"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/up,workdir=$3/work" "$r"
    mount -t proc proc "$r/proc"
    mount -t sysfs -o ro sysfs "$r/sys"
    mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$r/dev"
    for d in null zero full random urandom tty; do
        touch "$r/dev/$d"
        mount --bind "/dev/$d" "$r/dev/$d"
    done
    mkdir "$r/dev/pts" "$r/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$r/dev/pts"
    ln -s pts/ptmx "$r/dev/ptmx"
    mount -t tmpfs -o mode=755 tmpfs "$r/run"
    mount -t tmpfs tmpfs "$r/tmp"
    hostname "$name"
    echo "$name" >"$r/etc/hostname"
    echo "127.0.0.1 localhost $name" >"$r/etc/hosts"
    echo uninitialized >"$r/etc/machine-id"
    for d in firstboot networkd networkd-wait-online; do ln -sf /dev/null "$r/etc/systemd/system/systemd-$d.service"; done
    mkdir -p "$r/mnt/host"
    ! [[ -d ${BOX_SHARED:-} ]] || mount --bind "$BOX_SHARED" "$r/mnt/host"
    cd "$r"
    mkdir -p old
    pivot_root . old
    umount -l /old
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target
}

# on NAME COMMAND…: runs it there.
on() {
    local name=$1
    shift
    nsenter -t "${box_pid[$name]}" -m -n -p -i -u -C -r -w -- \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}

# wait_for WHAT SECONDS COMMAND…
wait_for() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain until $what"
        sleep 0.1
    done
}
