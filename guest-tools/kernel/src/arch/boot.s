# From the PVH entry to Rust at CPL 3, and the three things that must run at CPL 0: interrupts,
# exceptions, sleep.
#
# PVH (Xen's "direct boot"): 32-bit protected mode, flat segments, paging off, ebx = start_info.
# Everything here is emulated at about a microsecond per instruction where KVM runs without hardware
# support, so tables are made by the assembler and loops are absent.
#
# The same page tables serve both levels: identity, 4 GiB, 2 MiB leaves, user bit everywhere. They
# lie two megabytes away from anything the guest writes while it runs: a store next to a page table
# traps on such a KVM.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                  # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .boot, "awx", @progbits
    .code32
    .globl pvh_start
pvh_start:
    cld
    movl $cpl0_stack_top, %esp
    movl %ebx, boot_info
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x620, %eax               # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER: LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80050033, %eax          # PG, AM, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt gdtr
    ljmp $0x10, $start64

    .code64
start64:
    # TSC frequency, if the hypervisor tells: leaf 0x40000010 of the range whose size 0x40000000 gives.
    movl $0x40000000, %eax
    cpuid
    cmpl $0x40000010, %eax
    jb 1f
    movl $0x40000010, %eax
    cpuid
    movl %eax, tsc_khz(%rip)
1:  movl $0x18, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    lidt idtr(%rip)
    movb $0xff, %al                 # the 8259s stay silent: firmware left them at exception vectors
    outb %al, $0x21
    outb %al, $0xa1
    movw $0x40, %ax
    ltr %ax
    pushq $0x2b
    pushq $user_stack_top
    pushq $0x202                    # interrupts on, which CPL 3 could not do
    pushq $0x33
    pushq $user_start
    iretq

# Interrupt of a network interface. Level-triggered: reading ICR lowers the line, then the interrupt
# is acknowledged. `idle_block` holds, per interface, {address of ICR or 0, causes, interrupts, -}.
    .balign 16
    .globl irq_stub
irq_stub:
    pushq %rax
    pushq %rdx
    .set i, 0
    .rept 4
    movl idle_block + 16*i(%rip), %edx
    testl %edx, %edx
    jz 9f
    movl (%rdx), %eax
    testl %eax, %eax
    jz 2f
    lock orl %eax, idle_block + 16*i + 4(%rip)
    lock incl idle_block + 16*i + 8(%rip)
2:
    .set i, i+1
    .endr
9:  lock incl idle_block+64(%rip)
    movl $0xfee000b0, %edx
    movl $0, (%rdx)                 # EOI
    popq %rdx
    popq %rax
    iretq

# The local timer: it only ends a sleep.
    .balign 16
    .globl timer_stub
timer_stub:
    pushq %rdx
    lock incl idle_block+64(%rip)
    movl $0xfee000b0, %edx
    movl $0, (%rdx)
    popq %rdx
    iretq

    .balign 16
    .globl spurious_stub
spurious_stub:
    iretq

# Sleep: CPL 3 executes ud2 with the magic below in r10 and the number of wake-ups that it has seen
# in esi. The gate has interrupts off, so none can slip in between the comparison and hlt.
# (`int n` would be the natural way; KVM without hardware support refuses it, and passes #UD on.)
    .balign 16
    .globl sleep_stub
sleep_stub:
    cmpl $0x51ee9, %r10d
    jne exception_6
    cmpl idle_block+64(%rip), %esi
    jne 1f
    sti
    hlt
    cli
1:  addq $2, (%rsp)
    iretq

# Exceptions: note what happened, and return to CPL 3 into the function that reports it.
    .macro exception n, code
    .globl exception_\n
exception_\n:
    .if \code
    popq fault_code(%rip)
    .endif
    movl $\n, fault_vector(%rip)
    jmp exception
    .endm
    exception 0, 0
    exception 6, 0
    exception 8, 1
    exception 13, 1
    exception 14, 1
exception:
    pushq %rax
    movq %cr2, %rax
    movq %rax, fault_address(%rip)
    movq 8(%rsp), %rax
    movq %rax, fault_rip(%rip)
    popq %rax
    movq $user_fault, (%rsp)
    movq $fault_stack_top, 24(%rsp)
    iretq

    .section .tables, "aw", @progbits
    .balign 4096
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
pdpt:
    .quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
    .fill 508, 8, 0
pd:
    .set i, 0
    .rept 2048
    .quad i * 0x200000 + 0xe7       # present, writable, user, accessed, dirty, 2 MiB
    .set i, i + 1
    .endr
    .globl idt
    .balign 4096
idt:
    .fill 512, 8, 0
    .globl gdt
gdt:
    .quad 0, 0
    .quad 0x00af9b000000ffff        # 0x10: code, CPL 0
    .quad 0x00cf93000000ffff        # 0x18: data, CPL 0
    .quad 0
    .quad 0x00cff3000000ffff        # 0x28: data, CPL 3
    .quad 0x00affb000000ffff        # 0x30: code, CPL 3
    .quad 0
    # 0x40: TSS with an I/O bitmap. Its address is below 16 MiB, so the low three bytes say it all.
    .word 104 + 8192
    .word tss_low
    .byte tss_high, 0x89, 0, 0
    .quad 0
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt
idtr:
    .word 4095
    .quad idt
    .balign 4096
    .globl tss
tss:
    .long 0
    .quad cpl0_stack_top
    .fill 102 - 12, 1, 0
    .word 104                       # where the I/O bitmap starts: all ports open to CPL 3
    .fill 8192, 1, 0
    .byte 0xff
    .balign 4096
    .fill 4096, 1, 0
cpl0_stack_top:
    .globl boot_info, tsc_khz
boot_info: .long 0
tsc_khz: .long 0
    .globl fault_vector, fault_code, fault_address, fault_rip
    .balign 8
fault_code: .quad 0
fault_address: .quad 0
fault_rip: .quad 0
fault_vector: .long 0

    .section .shared, "aw", @progbits
# What the stubs tell the rest of the guest: on lines of its own, away from the tables.
    .balign 64
    .globl idle_block
idle_block:
    .fill 128, 1, 0
    .fill 4096, 1, 0
fault_stack_top:

    .section .text.start, "ax", @progbits
user_start:
    xorl %ebp, %ebp
    call guest_main
    ud2
user_fault:
    call guest_fault
    ud2

    .section .bss.stack, "aw", @nobits
    .balign 4096
    .fill 131072, 1, 0
    .globl user_stack_top
user_stack_top:
