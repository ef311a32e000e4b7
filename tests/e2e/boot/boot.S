# The first block of a bootable LUN. Says on the serial line that it runs, reads block 1 through the firmware (INT 13h), says what stands
# there, writes it to block 2, and ends the machine through QEMU's exit port: status 0x10 when all went well, 0x11 when not.
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    cld
    movb %dl, drive
    movw $hello, %si
    call say
    movb $0x42, %ah                 # extended read
    call transfer
    movw $buffer, %si
    call say
    movb $2, block
    movw $0x4300, %ax               # extended write
    call transfer
    movb $0x10, %al
end:
    outb %al, $0xf4
halt:
    hlt
    jmp halt

transfer:
    movw $packet, %si
    movb drive, %dl
    int $0x13
    jc failed
    ret
failed:
    movb $0x11, %al
    jmp end

# Writes the text at SI, up to its zero byte, to the first serial port.
say:
    lodsb
    testb %al, %al
    jz said
    movb %al, %bl
    movw $0x3fd, %dx
wait:
    inb %dx, %al
    testb $0x20, %al
    jz wait
    movb %bl, %al
    movw $0x3f8, %dx
    outb %al, %dx
    jmp say
said:
    ret

hello:
    .asciz "boot sector runs\r\n"
drive:
    .byte 0
    .balign 4
# Disk address packet: one block from `block` to `buffer`.
packet:
    .byte 16, 0
    .word 1
    .word buffer, 0
block:
    .quad 1

    .org 510
    .word 0xaa55
    .set buffer, 0x8000
