# Runs in the guest: a Linux host that uses the LUN. Talks with the outside by files in /tmp/job.
. /tmp/job/host.sh
fs=$(cat /tmp/job/filesystem)
start_initiator
log_in 10.99.0.1
await_disk sda
lsscsi -s || true
cat /sys/block/sda/queue/discard_max_bytes /sys/block/sda/queue/write_cache

say "file system $fs"
case $fs in
ext4) mkfs.ext4 -q -F /dev/sda ;;
xfs) modprobe xfs; mkfs.xfs -q -f /dev/sda ;;
esac
mkdir -p /mnt/lun
mount -t "$fs" /dev/sda /mnt/lun

# A real tree of some 100 MB.
mkdir /mnt/lun/tree
limit=104857600
copied=0
for folder in /usr/share/perl /usr/lib/git-core /usr/lib/x86_64-linux-gnu/perl /usr/share/zoneinfo /usr/lib/python3 /usr/lib/gcc /usr/include \
    /usr/lib/x86_64-linux-gnu/gconv /usr/share/locale /usr/share/mime /usr/bin /usr/sbin /usr/share/doc; do
    [ -d $folder ] || continue
    size=$(du -sb $folder | cut -f1)
    [ $((copied + size)) -le $limit ] || continue
    mkdir -p "/mnt/lun/tree$(dirname $folder)"
    cp -a $folder "/mnt/lun/tree$(dirname $folder)/"
    copied=$((copied + size))
    # The file system of the machine outside keeps a descriptor for every file that is remembered here.
    sync
    echo 3 > /proc/sys/vm/drop_caches
done
sync
say "copied $copied bytes"
(cd /mnt/lun/tree && find . -type f -print0 | sort -z | xargs -0 sha256sum) > /tmp/tree.sums
say "files $(wc -l < /tmp/tree.sums)"

tell writing
fio --output-format=normal --minimal --name=verify --filename=/mnt/lun/fio.data --size=48m --rw=randwrite --bsrange=4k-64k \
    --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --loops=4 --fsync=64 > /tmp/fio.out 2>&1 || {
    cat /tmp/fio.out
    say "fio failed"
    exit 1
}
tell written
await settled
# A second round when everything is well again, and the old data read back from the LUN, not from this host's memory.
fio --minimal --name=verify --filename=/mnt/lun/fio2.data --size=16m --rw=randwrite --bs=8k --ioengine=libaio --iodepth=8 --direct=1 \
    --verify=crc32c --verify_fatal=1 --do_verify=1 > /tmp/fio.out 2>&1 || { cat /tmp/fio.out; exit 1; }
sync
umount /mnt/lun
mount -t "$fs" /dev/sda /mnt/lun
(cd /mnt/lun/tree && sha256sum --quiet -c /tmp/tree.sums) || { say "files differ"; exit 1; }
fstrim -v /mnt/lun
umount /mnt/lun
case $fs in
ext4) e2fsck -fn /dev/sda ;;
xfs) xfs_repair -n /dev/sda ;;
esac
if dmesg | grep -E "I/O error|EXT4-fs error|XFS.*(error|shutdown)|Medium Error"; then
    say "the kernel complained"
    exit 1
fi
iscsiadm -m node --logout
say "done"
