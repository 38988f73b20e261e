/* A guest that drives an e1000 register by register, in a way that the manual defines and drivers rarely go. The first
 * letter of its command line says what it does. It ends with status 0 if all was as it should be, else with 1, and prints the
 * line of this file that found a fault. Runs on any PC with PVH boot, this project's and QEMU's alike. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* PVH enters in 32-bit mode, without paging, the address of its parameters in ebx. */
__asm__(".section .note.pvh, \"a\", @note\n"
        ".long 4, 4, 18\n.ascii \"Xen\\0\"\n.long _start\n"
        ".section .entry, \"ax\", @progbits\n.globl _start\n"
        "_start: mov $0x80000, %esp\npush %ebx\ncall run\n1: mov $0xf4, %dx\nout %eax, %dx\nhlt\njmp 1b\n.text\n");

static void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static u32 in32(u16 port) {
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

enum { CTRL = 0x0, MDIC = 0x20, ICR = 0xc0, ICS = 0xc8, IMS = 0xd0, IMC = 0xd8, RCTL = 0x100, TCTL = 0x400,
       RDBAL = 0x2800, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818, TDBAL = 0x3800, TDLEN = 0x3808, TDH = 0x3810,
       TDT = 0x3818, MPC = 0x4010, RNBC = 0x40a0, TSCTC = 0x40f8, TSCTFC = 0x40fc };
enum { EN = 2, PSP = 8, UPE = 8, BAM = 1 << 15, SECRC = 1 << 26 };
enum { COMMAND = 4, MASTER = 4, INTX_DISABLE = 1 << 10, INTERRUPT = 1 << 19 };
#define N 32u /* descriptors of a ring */

static u32 function;               /* its configuration address */
static volatile u32 *registers;
#define R(offset) registers[(offset) / 4]
static volatile u64 (*const tx)[2] = (void *)0x200000, (*const rx)[2] = (void *)0x201000;
static u8 *const sent = (u8 *)0x300000, *const received = (u8 *)0x600000;
static u32 tail, room;

static u32 config(u32 at) { out32(0xcf8, function | at); return in32(0xcfc); }
static void set_config(u32 at, u32 value) { out32(0xcf8, function | at); out32(0xcfc, value); }
static void phy(u32 at, u32 value) {
    R(MDIC) = 1 << 26 | 1 << 21 | at << 16 | value;
    while (!(R(MDIC) & 1 << 28)) { }
}
/* Reads a register until it is so, or for a second or a few. */
#define UNTIL(condition) for (u32 tries = 0; !(condition) && tries < 100000; tries++) (void)R(8)
#define CHECK(condition) do { if (!(condition)) return __LINE__; } while (0)

static void open(void) {
    for (u32 slot = 0; slot < 32; slot++) {
        function = 0x80000000 | slot << 11;
        if (config(0) == 0x100e8086) break;
    }
    registers = (u32 *)(config(0x10) & ~15u);
    set_config(COMMAND, 2 | MASTER);
    R(IMC) = ~0u;
    for (u32 i = 0; i < N; i++) {
        tx[i][0] = tx[i][1] = rx[i][1] = 0;
        rx[i][0] = (u32)received + 2048 * i;
    }
    R(TDBAL) = (u32)tx; R(TDBAL + 4) = 0; R(TDLEN) = 16 * N; R(TDH) = 0; R(TDT) = 0;
    R(RDBAL) = (u32)rx; R(RDBAL + 4) = 0; R(RDLEN) = 16 * N; R(RDH) = 0; R(RDT) = 0;
    R(TCTL) = EN | PSP;
    R(RCTL) = EN | UPE | BAM | SECRC;
    (void)R(ICR);
}

/* A descriptor at the tail; the ring is sent when it is nearly full. */
static void send(void) {
    R(TDT) = tail;
    UNTIL(R(TDH) == tail);
}
static void desc(u64 low, u64 high) {
    tx[tail][0] = low; tx[tail][1] = high;
    tail = (tail + 1) % N;
    if (tail % (N / 2) == 0) send();
}
static void legacy(const u8 *frame, u32 length) { desc((u32)frame, length | 0x0bull << 24); }
static u32 done(u32 i) { return rx[i][1] >> 32 & 1; }

/* Frames of bytes that count up. */
static u8 *frame(u32 length) {
    u8 *to = sent + room;
    room += (length + 63) & ~63u;
    for (u32 i = 0; i < 12; i++) to[i] = i < 6 ? 2 : 6;
    to[0] = 2; to[12] = 0x88; to[13] = 0xb5;
    for (u32 i = 14; i < length; i++) to[i] = i;
    return to;
}
static void put16(u8 *to, u32 value) { to[0] = value >> 8; to[1] = value; }
static u32 sum16(const u8 *from, u32 length) {
    u32 sum = 0;
    for (u32 i = 0; i < length; i += 2) sum += from[i] << 8 | from[i + 1];
    return sum;
}
static u32 fold(u32 sum) { while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16); return sum; }

/* Packets of IPv4 or IPv6 with TCP or UDP, as drivers leave them to the device: with the sum of the pseudo header, which
 * has the length only if the packet is not to be segmented. */
struct kind { u32 ipv6, tcp; };
static u32 headers(struct kind k) { return 14 + (k.ipv6 ? 40 : 20) + (k.tcp ? 20 : 8); }
static u8 *packet(struct kind k, u32 payload, u32 segmented) {
    u32 ip = k.ipv6 ? 40 : 20, transport = k.tcp ? 20 : 8, protocol = k.tcp ? 6 : 17;
    u8 *all = frame(14 + ip + transport + payload), *h = all + 14, *t = h + ip;
    put16(all + 12, k.ipv6 ? 0x86dd : 0x0800);
    for (u32 i = 0; i < ip; i++) h[i] = 0;
    u32 sum;
    if (k.ipv6) {
        h[0] = 0x60; put16(h + 4, transport + payload); h[6] = protocol; h[7] = 64;
        h[8] = h[24] = 0xfd; h[23] = 1; h[39] = 2;
        sum = sum16(h + 8, 32);
    } else {
        h[0] = 0x45; put16(h + 2, ip + transport + payload); h[5] = 7; h[8] = 64; h[9] = protocol;
        h[12] = h[16] = 10; h[15] = 1; h[19] = 2;
        sum = sum16(h + 12, 8);
    }
    sum = fold(sum + protocol + (segmented ? 0 : transport + payload));
    put16(t, 1000); put16(t + 2, 2000);
    if (k.tcp) { t[12] = 0x50; t[13] = 0x19; put16(t + 16, sum); put16(t + 18, 0); } /* FIN PSH ACK */
    else { put16(t + 4, transport + payload); put16(t + 6, sum); }
    return all;
}
enum { TCP = 1, IP = 2, TSE = 4, DEXT = 0x20, VLE = 0x40 };
static void context(struct kind k, u32 command, u32 payload, u32 mss) {
    u32 ip = k.ipv6 ? 40 : 20, t = 14 + ip;
    u64 low = 14 | 24 << 8 | (t - 1) << 16 | (u64)t << 32 | (u64)(t + (k.tcp ? 16 : 6)) << 40;
    command |= DEXT | (k.tcp ? TCP : 0) | (k.ipv6 ? 0 : IP);
    desc(low, payload | (u64)command << 24 | (u64)headers(k) << 40 | (u64)mss << 48);
}
static void data(const u8 *from, u32 length, u32 command, u32 options, u32 tag) {
    desc((u32)from, length | 1 << 20 | (u64)(DEXT | command) << 24 | (u64)options << 40 | (u64)tag << 48);
}
enum { LAST = 0xb }; /* EOP IFCS RS */
#define IXSM(k) ((k).ipv6 ? 0u : 1u)

/* Each kind: checksums, segments that fit and that do not, then both in turns under contexts that are loaded once. */
static u32 offloads(void) {
    open();
    for (u32 which = 0; which < 4; which++) {
        struct kind k = { which >> 1, which & 1 };
        u32 h = headers(k);
        for (u32 payload = 0; payload < 4; payload++) {
            context(k, 0, 0, 0);
            data(packet(k, 50 + payload, 0), h + 50 + payload, LAST, 2 | IXSM(k), 0);
        }
        for (u32 payload = 3000; payload <= 3003; payload++) {
            context(k, TSE, payload, 1001);
            u8 *from = packet(k, payload, 1);
            data(from, h, TSE, 2 | IXSM(k), 0); /* headers by themselves, and two parts */
            data(from + h, 1700, TSE, 0, 0);
            data(from + h + 1700, payload - 1700, TSE | LAST, 0, 0);
        }
        context(k, 0, 0, 0);
        context(k, TSE, 2000, 1460);
        for (u32 turn = 0; turn < 3; turn++) {
            data(packet(k, 2000, 1), h + 2000, TSE | LAST, 2 | IXSM(k), 0);
            data(packet(k, 80, 0), h + 80, LAST, 2 | IXSM(k), 0);
        }
    }
    /* Tags: of the first descriptor with segmentation, else of the last. */
    R(CTRL) = R(CTRL) | 1 << 30;
    struct kind k = { 0, 1 };
    context(k, TSE, 1500, 1000);
    u8 *from = packet(k, 1500, 1);
    data(from, 54, TSE | VLE, 3, 5);
    data(from + 54, 1500, TSE | VLE | LAST, 0, 6);
    context(k, 0, 0, 0);
    from = packet(k, 100, 0);
    data(from, 54, VLE, 3, 7);
    data(from + 54, 100, VLE | LAST, 0, 8);
    send();
    CHECK(R(TDH) == tail);
    return 0;
}

/* Loopback of the PHY, and each mode of RCTL. */
static u32 loopback(void) {
    for (u32 mode = 0; mode < 4; mode++) {
        tail = room = 0;
        open();
        if (mode) R(RCTL) = R(RCTL) | mode << 6; else phy(0, 0x4140);
        R(RDT) = N - 1;
        u8 *all = frame(1024);
        legacy(all, 1024);
        legacy(all, 60);
        send();
        UNTIL(done(1));
        CHECK(done(0) && done(1) && !done(2));
        CHECK((rx[0][1] & 0xffff) == 1024 && (rx[1][1] & 0xffff) == 60);
        for (u32 i = 0; i < 1024; i += 51) CHECK(received[i] == all[i]);
        R(RCTL) = 0;
        phy(0, 0x1140);
    }
    return 0;
}

/* Tails that are the ring's size. */
static u32 tails(void) {
    open();
    phy(0, 0x4140);
    R(RDT) = N;
    u8 *all = frame(60);
    for (u32 i = 0; i < N; i++) { tx[i][0] = (u32)all; tx[i][1] = 60 | 0x0bull << 24; }
    R(TDT) = N;
    UNTIL(done(N - 1) && tx[N - 1][1] >> 32 & 1);
    for (u32 i = 0; i < N; i++) CHECK(done(i) && tx[i][1] >> 32 & 1);
    CHECK(R(TDH) == 0 && R(RDH) == 0);
    for (u32 i = 0; i < N; i++) rx[i][1] = 0;
    tail = 0;
    legacy(all, 60);
    send();
    UNTIL(done(0));
    CHECK(done(0) && !done(1));
    return 0;
}

/* Three buffers for four packets. */
static u32 overrun(void) {
    open();
    phy(0, 0x4140);
    R(RDT) = 3;
    for (u32 i = 0; i < 3; i++) legacy(frame(60), 60);
    send();
    UNTIL(done(2));
    CHECK((R(ICR) & 0xd0) == 0x90); /* RXT0 and RXDMT0, and no RXO yet */
    legacy(frame(60), 60);
    send();
    u32 causes = 0;
    UNTIL((causes |= R(ICR)) & 0x40);
    CHECK(causes & 0x40 && R(RNBC) == 1 && R(RDH) == 3);
    R(RDT) = 5;
    UNTIL(done(3));
    CHECK(done(3) && R(RDH) == 4);
    return 0;
}

/* Causes one by one, reserved ones too; then what PCI says and allows. */
static u32 causes(void) {
    open();
    for (u32 bit = 0; bit < 15; bit++) {
        (void)R(ICR);
        R(ICS) = 1u << bit;
        CHECK(R(ICR) == 1u << bit && R(ICR) == 0);
        R(IMS) = 1u << bit;
        CHECK(R(IMS) == 1u << bit);
        R(IMC) = 1u << bit;
        CHECK(R(IMS) == 0);
    }
    for (u32 ring = RDLEN; ring <= TDLEN; ring += TDLEN - RDLEN) {
        R(ring) = ~0u;
        CHECK(R(ring) == 0xfff80);
    }
    return 0;
}
static u32 pci(void) {
    open();
    R(IMS) = 4;
    CHECK(!(config(COMMAND) & INTERRUPT));
    R(ICS) = 4;
    CHECK(config(COMMAND) & INTERRUPT);
    set_config(COMMAND, 2 | MASTER | INTX_DISABLE);
    CHECK((config(COMMAND) & 0xffff) == (2 | MASTER | INTX_DISABLE));
    CHECK(config(COMMAND) & INTERRUPT); /* it shows the cause whether disabled or not */
    CHECK(R(ICR) & 4);
    CHECK(!(config(COMMAND) & INTERRUPT));
    set_config(COMMAND, 2); /* no bus master */
    tx[0][0] = (u32)frame(60); tx[0][1] = 60 | 0x0bull << 24;
    R(TDT) = 1;
    for (u32 i = 0; i < 2000; i++) (void)R(8);
    CHECK(!(tx[0][1] >> 32 & 1));
    set_config(COMMAND, 2 | MASTER);
    UNTIL(tx[0][1] >> 32 & 1);
    CHECK(tx[0][1] >> 32 & 1);
    return 0;
}

static u32 test(char which) {
    switch (which) {
    case 'o': return offloads();
    case 'l': return loopback();
    case 't': return tails();
    case 'r': return overrun();
    case 'c': return causes();
    case 'p': return pci();
    default: return __LINE__;
    }
}

u32 run(u32 *start) {
    u32 line = test(*(const char *)start[6]);
    if (!line) return 0;
    const char *text = "line ";
    while (*text) __asm__ volatile("outb %0, %1" : : "a"(*text++), "Nd"((u16)0x3f8));
    for (u32 digit = 1000; digit; digit /= 10) {
        u8 byte = '0' + line / digit % 10;
        __asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"((u16)0x3f8));
    }
    return 1;
}
