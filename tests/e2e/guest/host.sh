# What the jobs of guests share. A job begins with `. /tmp/job/host.sh`.
set -eu
# The job runs in a chroot, where the tools of udev and systemd otherwise do nothing.
export SYSTEMD_IGNORE_CHROOT=1 SYSTEMD_PAGER=cat
trap '[ $? = 0 ] || dmesg | tail -n 12' EXIT
say() { echo "JOB $*"; }
tell() { : > "/tmp/job/$1"; }
await() { while [ ! -e "/tmp/job/$1" ]; do sleep 0.2; done; }

# Waits until a command succeeds; says what it waited for when it never does.
until_true() {
    what=$1
    shift
    tries=0
    until "$@" > /tmp/until.out 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { say "not $what"; cat /tmp/until.out; exit 1; }
        sleep 0.2
    done
}

start_initiator() {
    modprobe iscsi_tcp
    modprobe sd_mod
    mkdir -p /etc/iscsi /run/lock/iscsi /var/lib/iscsi
    rm -rf /etc/iscsi/nodes /etc/iscsi/send_targets /var/lib/iscsi/*
    echo "InitiatorName=iqn.2026-11.io.twinlun:guest" > /etc/iscsi/initiatorname.iscsi
    udevd=/lib/systemd/systemd-udevd
    [ -x $udevd ] || udevd=/usr/lib/systemd/systemd-udevd
    $udevd --daemon
    iscsid
}

log_in() {
    iscsiadm -m discovery -t sendtargets -p "$1"
    iscsiadm -m node --login
}

await_disk() {
    until_true "there: the disk $1" test -b "/dev/$1"
    udevadm settle
}
