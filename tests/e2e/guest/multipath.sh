# Runs in the guest: two paths to one LUN; each is lost once while fio writes and verifies. Where portals are drained, the first one is
# redirected to the second in the end.
. /tmp/job/host.sh
naa=$(cat /tmp/job/naa)
ip addr add 10.99.1.2/24 dev vec0
start_initiator
for module in dm_mod dm_multipath dm_round_robin dm_service_time; do modprobe $module; done
cat > /etc/iscsi/iscsid.conf << 'END'
node.session.timeo.replacement_timeout = 4
node.conn[0].timeo.noop_out_interval = 2
node.conn[0].timeo.noop_out_timeout = 2
END
cat > /etc/multipath.conf << 'END'
defaults {
    find_multipaths no
    user_friendly_names no
    polling_interval 1
    max_polling_interval 2
    path_grouping_policy group_by_prio
    prio alua
    no_path_retry 30
}
END
log_in 10.99.0.1
until_true "two disks" test -b /dev/sdb
udevadm settle
multipathd
paths() { multipathd show paths raw format "%d %t %T" | grep -c "$1"; }
up() { [ "$(paths 'active ready')" = "$1" ]; }
lun=/dev/mapper/3$naa
until_true "a map of two paths" up 2
until_true "there: $lun" test -b "$lun"
multipath -ll
multipath -ll | grep -q TWINLUN

# work NAME LOOPS
work() {
    fio --minimal --name="$1" --filename="$lun" --size=16m --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=8 --direct=1 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --loops="$2" > "/tmp/$1.out" 2>&1 || { cat "/tmp/$1.out"; say "fio $1 failed"; exit 1; }
}
round() {
    work "$1" 40 &
    worker=$!
    tell "writing-$1"
    until_true "one path left" up 1
    tell "alone-$1"
    until_true "both paths back" up 2
    wait $worker || { cat "/tmp/$1.out"; exit 1; }
    say "round $1 done"
    tell "done-$1"
}
round second
await go
round first
if [ "$(cat /tmp/job/loss)" = Drained ]; then
    work third 40 &
    worker=$!
    tell writing-third
    await moved
    wait $worker || { cat /tmp/third.out; exit 1; }
    until_true "both paths back" up 2
fi
if dmesg | grep -E "Buffer I/O error on dev dm|I/O error, dev dm"; then
    say "the map failed"
    exit 1
fi
multipath -F || true
iscsiadm -m node --logout
say "done"
