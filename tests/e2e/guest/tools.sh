# Runs in the guest: Linux's own tools ask the LUN about itself and use its commands. /tmp/job/naa is its identifier, /tmp/job/blocks its size.
. /tmp/job/host.sh
naa=$(cat /tmp/job/naa)
blocks=$(cat /tmp/job/blocks)
failures=0

# expect PATTERN COMMAND…: the command succeeds and a line of what it says matches.
expect() {
    pattern=$1
    shift
    if "$@" > /tmp/said 2>&1 && grep -qE -- "$pattern" /tmp/said; then return; fi
    say "FAILED: $* does not say \"$pattern\":"
    head -n 40 /tmp/said
    failures=$((failures + 1))
}
# refused PATTERN COMMAND…: the command fails and says why.
refused() {
    pattern=$1
    shift
    if ! "$@" > /tmp/said 2>&1 && grep -qE -- "$pattern" /tmp/said; then return; fi
    say "FAILED: $* was not refused with \"$pattern\":"
    head -n 40 /tmp/said
    failures=$((failures + 1))
}
# block NUMBER: its sum.
block() { sg_dd if=/dev/sg0 bs=512 skip="$1" count=1 of=/tmp/block 2> /dev/null && sha256sum < /tmp/block; }
pattern() { head -c $((512 * $2)) /dev/zero | tr '\0' "$1"; }

start_initiator
modprobe sg
# Data digests, which libiscsi cannot ask for.
echo "node.conn[0].iscsi.HeaderDigest = CRC32C" > /etc/iscsi/iscsid.conf
echo "node.conn[0].iscsi.DataDigest = CRC32C" >> /etc/iscsi/iscsid.conf
log_in 10.99.0.1
await_disk sda
expect "CRC32C" iscsiadm -m session -P 2
expect "DataDigest: CRC32C" iscsiadm -m session -P 2
until_true "there: /dev/sg0" test -c /dev/sg0

say "names"
expect "disk +TWINLUN" lsscsi
expect "sda +disk +TWINLUN .*iscsi +0x$naa" lsblk -dno NAME,TYPE,VENDOR,MODEL,TRAN,WWN /dev/sda
expect "wwn-0x$naa" ls /dev/disk/by-id
expect "scsi-3$naa" ls /dev/disk/by-id
expect "ip-10.99.0.1:3260-iscsi-iqn.*-lun-0" ls /dev/disk/by-path
expect "ID_SERIAL=3$naa" udevadm info --query=property /dev/sda
expect "^3$naa" /lib/udev/scsi_id --whitelisted /dev/sda

say "INQUIRY"
expect "Vendor identification: TWINLUN" sg_inq /dev/sg0
expect "CmdQue=1" sg_inq /dev/sg0
expect "version=0x0[67]" sg_inq /dev/sg0
for page in sv sn di ei mpp sp bl bdc lbpv; do expect "VPD page" sg_vpd --page=$page /dev/sg0; done
expect "0x$naa" sg_vpd --page=di /dev/sg0
expect "iqn.2026-11.io.twinlun:solo,t,0x0001" sg_vpd --page=di /dev/sg0
expect "\(LBPU\): 1" sg_vpd --page=lbpv /dev/sg0
expect "\(LBPWS\): 1" sg_vpd --page=lbpv /dev/sg0
expect "\(LBPRZ\): 1" sg_vpd --page=lbpv /dev/sg0
expect "thin provisioned" sg_vpd --page=lbpv /dev/sg0
expect "Maximum compare and write length: 255 blocks" sg_vpd --page=bl /dev/sg0
expect "Maximum unmap LBA count: [1-9]" sg_vpd --page=bl /dev/sg0
expect "Non-rotating" sg_vpd --page=bdc /dev/sg0
expect "lbpme=1" sg_readcap --16 /dev/sg0
expect "Number of logical blocks=$blocks" sg_readcap --16 /dev/sg0
expect "Number of logical blocks=$blocks" sg_readcap /dev/sg0
expect "^ *0000000000000000$" sg_luns /dev/sg0

say "mode and log pages"
expect "Caching" sg_modes --all /dev/sg0
expect "Control" sg_modes --all /dev/sg0
expect "Supported log pages" sg_logs /dev/sg0
expect "0x0c +Logical block provisioning" sg_logs /dev/sg0

say "commands"
for name in "Report supported operation codes" "Persistent reserve out, preempt and abort" "Compare and write" "Write same\(16\)" "Unmap" "Get LBA status\(16\)" "Synchronize cache\(16\)" "Format [Uu]nit" "Write buffer" "Read buffer"; do
    expect "$name" sg_opcodes /dev/sg0
done
expect "Command is supported \[conforming to SCSI standard\]" sg_opcodes --opcode=0x42 /dev/sg0
expect "ready" sh -c "sg_turs --verbose /dev/sg0 && echo ready"
expect "done" sh -c "sg_sync /dev/sg0 && sg_sync --16 /dev/sg0 && echo done"
expect "done" sh -c "sg_verify --lba=0 --count=64 /dev/sg0 && echo done"
expect "active/optimized" sg_rtpg --decode /dev/sg0
expect "bad errors: 0" scsi_mandat /dev/sg0

say "persistent reservations"
expect "done" sh -c "sg_persist --out --register --param-sark=0xabc /dev/sg0 && echo done"
expect "0xabc" sg_persist --in --read-keys /dev/sg0
expect "done" sh -c "sg_persist --out --reserve --param-rk=0xabc --prout-type=5 /dev/sg0 && echo done"
expect "Write Exclusive, registrants only" sg_persist --in --read-reservation /dev/sg0
expect "iqn.2026-11.io.twinlun:guest" sg_persist --in --read-full-status /dev/sg0
expect "Persist Through Power Loss Capable ?\(PTPL_C\): 1" sg_persist --in --report-capabilities /dev/sg0
refused "conflict" sg_persist --out --release --param-rk=0xdef --prout-type=5 /dev/sg0
expect "done" sh -c "sg_persist --out --clear --param-rk=0xabc /dev/sg0 && echo done"
expect "NO registered reservation keys" sg_persist --in --read-keys /dev/sg0

say "WRITE SAME, UNMAP, GET LBA STATUS"
pattern A 1 > /tmp/A
zero=$(head -c 512 /dev/zero | sha256sum)
expect "done" sh -c "sg_write_same --16 --lba=2048 --num=4096 --in=/tmp/A --xferlen=512 /dev/sg0 && echo done"
[ "$(block 2048)" = "$(sha256sum < /tmp/A)" ] || { say "FAILED: WRITE SAME wrote something else"; failures=$((failures + 1)); }
[ "$(block 6143)" = "$(sha256sum < /tmp/A)" ] || { say "FAILED: WRITE SAME stopped early"; failures=$((failures + 1)); }
[ "$(block 6144)" = "$zero" ] || { say "FAILED: WRITE SAME went too far"; failures=$((failures + 1)); }
expect "mapped" sg_get_lba_status --lba=2048 /dev/sg0
expect "done" sh -c "sg_unmap --lba=2048 --num=4096 /dev/sg0 && echo done"
[ "$(block 2048)" = "$zero" ] || { say "FAILED: an unmapped block is not zero"; failures=$((failures + 1)); }
expect "LBA: 0x0*800" sg_get_lba_status --lba=2048 /dev/sg0
expect "done" sh -c "blkdiscard --offset 1048576 --length 1048576 /dev/sda && echo done"
refused "LBA out of range|Illegal request" sg_write_same --16 --lba="$blocks" --num=1 --in=/tmp/A --xferlen=512 /dev/sg0

say "COMPARE AND WRITE"
{ head -c 512 /dev/zero; cat /tmp/A; } > /tmp/pair
expect "done" sh -c "sg_compare_and_write --lba=9 --in=/tmp/pair --num=1 --xferlen=1024 /dev/sg0 && echo done"
[ "$(block 9)" = "$(sha256sum < /tmp/A)" ] || { say "FAILED: COMPARE AND WRITE wrote something else"; failures=$((failures + 1)); }
refused "[Mm]iscompare" sg_compare_and_write --lba=9 --in=/tmp/pair --num=1 --xferlen=1024 /dev/sg0

say "EXTENDED COPY"
expect "3PC=1" sg_inq /dev/sg0
pattern B 64 > /tmp/B
sg_dd if=/tmp/B of=/dev/sg0 bs=512 seek=16384 count=64 2> /dev/null
expect "done" sh -c "sg_xcopy if=/dev/sg0 of=/dev/sg0 bs=512 skip=16384 seek=32768 count=64 && echo done"
[ "$(block 32768)" = "$(head -c 512 /tmp/B | sha256sum)" ] || { say "FAILED: a copy begins with something else"; failures=$((failures + 1)); }
[ "$(block 32831)" = "$(head -c 512 /tmp/B | sha256sum)" ] || { say "FAILED: a copy ends early"; failures=$((failures + 1)); }
[ "$(block 32832)" = "$zero" ] || { say "FAILED: a copy goes too far"; failures=$((failures + 1)); }

say "buffers, and what there is not"
printf 'there and back' > /tmp/echo
expect "done" sh -c "sg_write_buffer --mode=echo --length=14 --in=/tmp/echo /dev/sg0 && echo done"
# sg_read_buffer of sg3-utils 1.46 asks for nothing, whatever its --length.
expect "there and back" sg_raw --request=64 /dev/sg0 3c 0a 00 00 00 00 00 00 40 00
expect "00 01 00 00" sg_raw --request=4 /dev/sg0 3c 03 00 00 00 00 00 00 04 00
refused "Illegal request|illegal request" sg_write_buffer --mode=dmc_offs_save --length=14 --in=/tmp/echo /dev/sg0
refused "[Ii]nvalid opcode|Invalid command operation code|not supported" sg_reassign --address=5 /dev/sg0

# A command that the LUN does not know is refused and harms nothing.
refused "Invalid command operation code" sg_raw /dev/sg0 c9 00 00 00 00 00 00 00 00 00
expect "ready" sh -c "sg_turs /dev/sg0 && echo ready"

if dmesg | grep -E "I/O error.*sda|Medium Error"; then say "FAILED: the kernel complained"; failures=$((failures + 1)); fi
iscsiadm -m node --logout
say "$failures failures"
[ $failures = 0 ]
