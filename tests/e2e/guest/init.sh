#!/bin/sh
# First process of the guest. Parameters come on the kernel's command line: job=FOLDER, a folder of the machine outside with job.sh.
# The machine's own root is mounted read-only below an overlay in memory, so nothing on it is ever written.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for word in $(cat /proc/cmdline); do
    case $word in job=*) job=${word#job=} ;; esac
done
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/modules/lib /mnt/upper /mnt/work /mnt/root
ln -s /usr/lib/uml/modules /mnt/modules/lib/modules
modprobe -d /mnt/modules overlay
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for folder in proc sys dev; do mount --bind /$folder /mnt/root/$folder; done
mount -t tmpfs tmpfs /mnt/root/run
mount -t tmpfs tmpfs /mnt/root/tmp
mkdir -p /mnt/root/lib/modules /mnt/root/run/lock /mnt/root/tmp/job /mnt/root/dev/shm
ln -sfn /usr/lib/uml/modules/"$(uname -r)" /mnt/root/lib/modules/"$(uname -r)"
ip link set lo up
ip addr add 10.99.0.2/24 dev vec0
ip link set vec0 up
mount -t hostfs hostfs -o "$job" /mnt/root/tmp/job
chroot /mnt/root /bin/sh /tmp/job/job.sh
echo "JOB EXIT $?"
echo o > /proc/sysrq-trigger
sleep 30
