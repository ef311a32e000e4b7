# Runs in the guest: commands that change a whole LUN, and copies that a host leaves to the array. LUN 0 is mirrored, LUN 1 is not.
# /tmp/job/order says which of them.
. /tmp/job/host.sh

# holds_only BYTE DISK: read past the guest's own cache.
holds_only() {
    rest=$(dd if="$2" bs=1M iflag=direct 2> /dev/null | tr -d "$1" | wc -c)
    [ "$rest" = 0 ] || { say "FAILED: $2 has $rest other bytes"; exit 1; }
}
fill() { tr '\0' "$2" < /dev/zero | dd of="$1" bs=1M iflag=fullblock oflag=direct count="$(($(blockdev --getsize64 "$1") >> 20))" 2> /dev/null; }
# part DISK BLOCK COUNT: the sum of these blocks.
part() { dd if="$1" bs=512 skip="$2" count="$3" iflag=direct 2> /dev/null | sha256sum; }
# same DISK BLOCK DISK BLOCK COUNT
same() {
    [ "$(part "$1" "$2" "$5")" = "$(part "$3" "$4" "$5")" ] || { say "FAILED: the copy differs at block $4"; exit 1; }
}

# bytes OCTAL…
bytes() { for byte; do printf "\\$byte"; done; }
zeros() { head -c "$1" /dev/zero; }
# range: two bytes of LBA and two of a number of blocks.
range() { zeros 6; bytes "$1" "$2"; zeros 2; bytes "$3" "$4"; zeros 4; }
# using TOKEN range: WRITE USING TOKEN to LUN 0.
using() {
    { bytes 002 046; zeros 14; cat "$1"; zeros 7; bytes 020; range "$2" "$3" "$4" "$5"; } > /tmp/list
    sg_raw --send=552 --infile=/tmp/list /dev/sg0 83 11 00 00 00 00 00 00 00 02 00 00 02 28 00 00
}

start_initiator
modprobe sg
log_in 10.99.0.1
await_disk sda
await_disk sdb
until_true "there: /dev/sg1" test -c /dev/sg1
fill /dev/sda x

case $(cat /tmp/job/order) in
sanitize)
    head -c 512 /dev/zero | tr '\0' P > /tmp/P
    sg_sanitize --overwrite --pattern=/tmp/P --count=2 --quick --wait /dev/sg0
    holds_only P /dev/sda
    # One that answers at once, and is asked for its progress until it is over.
    sg_sanitize --block --quick --early /dev/sg1
    until_true "sanitized" sg_turs /dev/sg1
    holds_only '\0' /dev/sdb
    ;;
format)
    sg_format --format --quick --wait /dev/sg0
    holds_only '\0' /dev/sda
    # The same with IMMED, and the default pattern asked for.
    fill /dev/sdb y
    sg_format --format --ip-def --quick --early /dev/sg1
    until_true "formatted" sg_turs /dev/sg1
    holds_only '\0' /dev/sdb
    ;;
xcopy)
    dd if=/dev/urandom of=/dev/sdb bs=1M count=8 oflag=direct 2> /dev/null
    sg_xcopy if=/dev/sg1 of=/dev/sg0 bs=512 skip=8 seek=1000 count=9000
    same /dev/sdb 8 /dev/sda 1000 9000
    sg_xcopy if=/dev/sg0 of=/dev/sg0 bs=512 skip=1000 seek=50000 count=2048
    same /dev/sda 1000 /dev/sda 50000 2048
    ;;
odx)
    dd if=/dev/urandom of=/dev/sdb bs=1M count=8 oflag=direct 2> /dev/null
    # POPULATE TOKEN of 10000 blocks from block 16 of LUN 1, and WRITE USING TOKEN at block 2000 of LUN 0. ddpt, the one tool for Linux that knows
    # them, puts its range descriptors a byte too early (0.97), so the lists are made here.
    { bytes 000 036; zeros 13; bytes 020; range 000 020 047 020; } > /tmp/list
    sg_raw --send=32 --infile=/tmp/list /dev/sg1 83 10 00 00 00 00 00 00 00 01 00 00 00 20 00 00
    sg_raw --request=1024 --outfile=/tmp/told --binary /dev/sg1 84 07 00 00 00 01 00 00 00 00 00 00 04 00 00 00
    dd if=/tmp/told of=/tmp/token bs=1 skip=38 count=512 2> /dev/null
    using /tmp/token 007 320 047 020
    same /dev/sdb 16 /dev/sda 2000 10000
    # The zero token, on the first 1000 of them.
    { bytes 377 377 000 001 000 000 001 370; zeros 504; } > /tmp/token
    using /tmp/token 007 320 003 350
    [ "$(part /dev/sda 2000 1000)" = "$(zeros 512000 | sha256sum)" ] || { say "FAILED: the zero token"; exit 1; }
    same /dev/sdb 1016 /dev/sda 3000 9000
    ;;
esac
blockdev --flushbufs /dev/sda
iscsiadm -m node --logout
