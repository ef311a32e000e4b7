# Runs in the guest: the target of the Linux kernel, configured by hand. /tmp/job/luns has a line for each LU: LUN, size, block size;
# /tmp/job/hosts the names of the hosts that may log in.
set -eu
trap '[ $? = 0 ] || dmesg | tail -n 20' EXIT
await() { while [ ! -e "/tmp/job/$1" ]; do sleep 0.2; done; }

modprobe configfs 2>/dev/null || true
modprobe target_core_mod
[ -d /sys/kernel/config/target ] || mount -t configfs configfs /sys/kernel/config
# Where reservations are kept. The kernel's threads see this root as /mnt/root; the folder of that name here is only looked for.
mkdir -p /var/target/pr /mnt/root/var/target
echo /mnt/root/var/target > /sys/kernel/config/target/dbroot
modprobe target_core_file
modprobe iscsi_target_mod

core=/sys/kernel/config/target/core/fileio_0
fabric=/sys/kernel/config/target/iscsi
group=$fabric/$(cat /tmp/job/target)/tpgt_1
mkdir -p $core
mkdir -p $fabric
mkdir -p "$group"
while read -r lun size block; do
    truncate -s "$size" "/run/lun$lun.img"
    lu=$core/lu$lun
    mkdir "$lu"
    echo "fd_dev_name=/run/lun$lun.img,fd_dev_size=$size,fd_buffered_io=1" > "$lu/control"
    echo "differential-$lun" > "$lu/wwn/vpd_unit_serial"
    echo 1 > "$lu/enable"
    echo "$block" > "$lu/attrib/block_size"
    for feature in emulate_tpu emulate_tpws emulate_write_cache unmap_zeroes_data; do
        echo 1 > "$lu/attrib/$feature" || echo "JOB no $feature"
    done
    echo 8192 > "$lu/attrib/max_unmap_lba_count"
    echo 16 > "$lu/attrib/max_unmap_block_desc_count"
    mkdir "$group/lun/lun_$lun"
    ln -s "$lu" "$group/lun/lun_$lun/lu"
done < /tmp/job/luns
echo 0 > "$group/attrib/authentication"
echo 0 > "$group/attrib/generate_node_acls"
while read -r host; do
    mkdir "$group/acls/$host"
    while read -r lun _ _; do
        mkdir "$group/acls/$host/lun_$lun"
        ln -s "$group/lun/lun_$lun" "$group/acls/$host/lun_$lun/lun"
        echo 0 > "$group/acls/$host/lun_$lun/write_protect"
    done < /tmp/job/luns
done < /tmp/job/hosts
mkdir "$group/np/10.99.0.2:3260"
echo 1 > "$group/enable"
: > /tmp/job/ready
await done
