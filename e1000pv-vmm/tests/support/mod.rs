//! What the tests of the VMM share: machines as child processes that never outlive the test, kernels
//! assembled by hand, a fresh root directory.

#![allow(dead_code, reason = "each test binary uses its part of this file")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub mod frame;
pub mod running;
#[path = "../../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
#[allow(unused_imports, reason = "not every test binary skips")]
pub use skipping::skip;

/// The tool, with a root directory of its own. It heeds SIGHUP, also where the tests run under nohup(1).
pub fn vmm(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_e1000pv-vmm")]);
    command.args(args).env("NETMAP_ROOT", root).stdin(Stdio::null());
    if args.contains(&"--kernel") && !args.contains(&"--mem") {
        // All of it is made present at the start, and these kernels need none.
        command.args(["--mem", "64M"]);
    }
    command
}

/// A root directory.
pub fn root() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory for the root")
}

/// Runs to the end.
pub fn output(mut command: Command) -> Output {
    command.output().expect("e1000pv-vmm starts")
}

/// stdout as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// stderr as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The last line of stdout, which is a record.
pub fn record(output: &Output) -> Value {
    let text = stdout(output);
    let line = text.lines().last().unwrap_or_else(|| panic!("no record; {}", stderr(output)));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// True if KVM can be used here. If not, says so.
pub fn kvm(test: &str) -> bool {
    match e1000pv_vmm::guest::vm::open_kvm(Path::new("/dev/kvm")) {
        Ok(_) => true,
        Err(why) => {
            skip(test, &format!("{why:#}"));
            false
        }
    }
}

/// Where hand-made kernels are loaded and begin.
pub const BASE: u32 = 0x10_0000;

/// An ELF image of `code` at `BASE`, with a PVH note that says to enter there, in 32-bit mode.
pub fn kernel(code: &[u8]) -> tempfile::NamedTempFile {
    const EHDR: usize = 64;
    const PHDR: usize = 56;
    /// XEN_ELFNOTE_PHYS32_ENTRY.
    const PHYS32_ENTRY: u32 = 18;
    let note_at = EHDR + 2 * PHDR;
    let mut note = Vec::new();
    for word in [4, 8, PHYS32_ENTRY] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&u64::from(BASE).to_le_bytes());
    let code_at = note_at + note.len();
    let mut elf = Vec::new();
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    elf.resize(16, 0);
    elf.extend_from_slice(&2u16.to_le_bytes()); // an executable
    elf.extend_from_slice(&62u16.to_le_bytes()); // for x86-64
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&u64::from(BASE).to_le_bytes());
    elf.extend_from_slice(&(EHDR as u64).to_le_bytes());
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [EHDR, PHDR, 2, 64, 0, 0] {
        elf.extend_from_slice(&(half as u16).to_le_bytes());
    }
    assert_eq!(elf.len(), EHDR);
    // Program headers: what to load, and the note.
    for (kind, at, address, len) in
        [(1u32, code_at, u64::from(BASE), code.len()), (4, note_at, 0, note.len())]
    {
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&7u32.to_le_bytes());
        for word in [at as u64, address, address, len as u64, len as u64, 4] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
    }
    elf.extend_from_slice(&note);
    elf.extend_from_slice(code);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&elf).expect("room for a small file");
    file
}

/// A bzImage of `code`, which is entered in long mode.
pub fn bzimage(code: &[u8]) -> tempfile::NamedTempFile {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..][..bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // one sector of setup code behind the first
    put(0x200, &[0xeb, 0x66]); // the header's length
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]); // loaded high
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &(2u32 << 20).to_le_bytes());
    put(0x236, &[1]); // entered in long mode
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &(16u64 << 20).to_le_bytes());
    put(0x260, &(1u32 << 20).to_le_bytes());
    image.resize(1024 + 0x200, 0xf4);
    image.extend_from_slice(code);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&image).expect("room for a small file");
    file
}

/// Machine code for the 32-bit state that PVH enters in.
#[derive(Debug, Default)]
pub struct Asm(Vec<u8>);

impl Asm {
    /// Nothing yet.
    pub fn new() -> Asm {
        Asm::default()
    }

    fn put(mut self, bytes: &[u8]) -> Asm {
        self.0.extend_from_slice(bytes);
        self
    }

    fn put32(self, opcode: &[u8], value: u32) -> Asm {
        self.put(opcode).put(&value.to_le_bytes())
    }

    /// Prints the string at `esi`, up to its zero byte.
    fn print_esi(self) -> Asm {
        // mov edx, 0x3f8; 1: lodsb; test al, al; jz 2; out dx, al; jmp 1; 2:
        self.put32(&[0xba], 0x3f8).put(&[0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8])
    }

    /// Prints text to COM1.
    pub fn print(self, text: &str) -> Asm {
        let at = BASE + self.0.len() as u32 + 5;
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        // jmp over the text; the text; mov esi, its address
        self.put32(&[0xe9], bytes.len() as u32).put(&bytes).put32(&[0xbe], at).print_esi()
    }

    /// Prints the command line that start_info names.
    pub fn print_command_line(self) -> Asm {
        self.put(&[0x8b, 0x73, 0x18]).print_esi() // mov esi, [ebx + 24]
    }

    /// In long mode: prints the command line that the zero page names, and exits well.
    pub fn print_zero_page_command_line(self) -> Asm {
        self.put(&[0x8b, 0xb6, 0x28, 2, 0, 0]).print_esi().exit(0) // mov esi, [rsi + 0x228]
    }

    /// The code.
    pub fn code(&self) -> &[u8] {
        &self.0
    }

    /// Fails (exit status 1) unless start_info has its magic.
    pub fn check_start_info(self) -> Asm {
        // cmp dword [ebx], magic; je over
        self.put32(&[0x81, 0x3b], 0x336e_c578).put(&[0x74, 9]).exit(1)
    }

    /// Reads an address and fails (exit status 1) if its value is not this.
    pub fn check_load(self, address: u32, value: u32) -> Asm {
        // mov eax, [address]; cmp eax, value; je over
        self.put32(&[0xa1], address).put32(&[0x3d], value).put(&[0x74, 9]).exit(1)
    }

    /// Reads an address until its value is this.
    pub fn wait_load(self, address: u32, value: u32) -> Asm {
        // mov eax, [address]; cmp eax, value; jne back to the first
        self.put32(&[0xa1], address).put32(&[0x3d], value).put(&[0x75, 0xf4])
    }

    /// Stores to an address.
    pub fn store(self, address: u32, value: u32) -> Asm {
        self.put32(&[0xc7, 0x05], address).put(&value.to_le_bytes())
    }

    /// Writes a port with 32 bits.
    pub fn out32(self, port: u16, value: u32) -> Asm {
        // mov edx, port; mov eax, value; out dx, eax
        self.put32(&[0xba], u32::from(port)).put32(&[0xb8], value).put(&[0xef])
    }

    /// Reads a port with 32 bits and fails (exit status 1) if that is not this.
    pub fn check_in32(self, port: u16, value: u32) -> Asm {
        // mov edx, port; in eax, dx; cmp eax, value; je over
        self.put32(&[0xba], u32::from(port))
            .put(&[0xed])
            .put32(&[0x3d], value)
            .put(&[0x74, 9])
            .exit(1)
    }

    /// Sends back what comes by COM1, up to a `q`.
    pub fn echo(self) -> Asm {
        // mov edx, 0x3fd; 1: in al, dx; test al, 1; jz 1; mov edx, 0x3f8; in al, dx; out dx, al;
        // cmp al, 'q'; jne to the beginning
        self.put32(&[0xba], 0x3fd)
            .put(&[0xec, 0xa8, 0x01, 0x74, 0xfb])
            .put32(&[0xba], 0x3f8)
            .put(&[0xec, 0xee, 0x3c, b'q', 0x75, 0xeb])
    }

    /// Waits for a break on COM1, and drops what else comes.
    pub fn wait_break(self) -> Asm {
        // 1: mov edx, 0x3fd; in al, dx; mov ah, al; test al, 1; jz 1; mov edx, 0x3f8; in al, dx; test ah, 0x10; jz 1
        self.put32(&[0xba], 0x3fd)
            .put(&[0xec, 0x88, 0xc4, 0xa8, 0x01, 0x74, 0xf4])
            .put32(&[0xba], 0x3f8)
            .put(&[0xec, 0xf6, 0xc4, 0x10, 0x74, 0xe9])
    }

    /// Writes a status to the exit port, and spins. 9 bytes.
    pub fn exit(self, status: u32) -> Asm {
        // mov eax, status; out 0xf4, eax; jmp itself
        self.put32(&[0xb8], status).put(&[0xe7, 0xf4, 0xeb, 0xfe])
    }

    /// Writes a port with 8 bits.
    pub fn out8(self, port: u16, value: u8) -> Asm {
        // mov edx, port; mov al, value; out dx, al
        self.put32(&[0xba], u32::from(port)).put(&[0xb0, value, 0xee])
    }

    /// Writes a port with 16 bits.
    pub fn out16(self, port: u16, value: u16) -> Asm {
        // mov edx, port; mov eax, value; out dx, ax
        self.put32(&[0xba], u32::from(port)).put32(&[0xb8], u32::from(value)).put(&[0x66, 0xef])
    }

    /// Reads a port with 16 bits and fails (exit status 1) if that is not this.
    pub fn check_in16(self, port: u16, value: u16) -> Asm {
        // mov edx, port; xor eax, eax; in ax, dx; cmp eax, value; je over
        self.put32(&[0xba], u32::from(port))
            .put(&[0x31, 0xc0, 0x66, 0xed])
            .put32(&[0x3d], u32::from(value))
            .put(&[0x74, 9])
            .exit(1)
    }

    /// Reads a port with 16 bits until one of these is set.
    pub fn wait_in16(self, port: u16, bits: u16) -> Asm {
        // mov edx, port; 1: in ax, dx; test eax, bits; jz 1
        self.put32(&[0xba], u32::from(port))
            .put(&[0x66, 0xed])
            .put32(&[0xa9], u32::from(bits))
            .put(&[0x74, 0xf7])
    }

    /// Loads eax with a word, which is behind one byte.
    pub fn word(self, value: u32) -> Asm {
        self.put32(&[0xb8], value)
    }

    /// Waits for a byte on COM1: al.
    pub fn key(self) -> Asm {
        // mov edx, 0x3fd; 1: in al, dx; test al, 1; jz 1; mov edx, 0x3f8; in al, dx
        self.put32(&[0xba], 0x3fd)
            .put(&[0xec, 0xa8, 0x01, 0x74, 0xfb])
            .put32(&[0xba], 0x3f8)
            .put(&[0xec])
    }

    /// Skips the 9 bytes of an `exit` unless the key was this.
    pub fn unless_key(self, key: u8) -> Asm {
        // cmp al, key; jne over
        self.put(&[0x3c, key, 0x75, 9])
    }

    /// Goes on with this, which may not depend on where it is.
    pub fn then(self, rest: Asm) -> Asm {
        self.put(&rest.0)
    }

    /// Lets each of the other vCPUs count itself at `count`, which is 0x1000 behind 0x2000, and spin.
    pub fn start_others(self, count: u32) -> Asm {
        const TRAMPOLINE: u32 = 0x2000;
        const ICR: u32 = 0xfee0_0300;
        assert_eq!(count, TRAMPOLINE + 0x1000);
        // In real mode: lock inc word [cs:0x1000]; jmp itself
        self.store(TRAMPOLINE, u32::from_le_bytes([0x2e, 0xf0, 0xff, 0x06]))
            .store(TRAMPOLINE + 4, u32::from_le_bytes([0x00, 0x10, 0xeb, 0xfe]))
            .store(ICR, 0x000c_4500) // INIT to all but this one
            .store(ICR, 0x000c_4600 | TRAMPOLINE >> 12)
    }

    /// Interrupts off.
    pub fn cli(self) -> Asm {
        self.put(&[0xfa])
    }

    /// Halts with interrupts on, as a kernel that has nothing to do.
    pub fn idle(self) -> Asm {
        self.put(&[0xfb, 0xf4, 0xeb, 0xfc])
    }

    /// Spins.
    pub fn forever(self) -> Asm {
        self.put(&[0xeb, 0xfe])
    }

    /// Jumps back over so many bytes.
    pub fn jump_back(self, bytes: u8) -> Asm {
        let offset = -(i32::from(bytes) + 5);
        self.put32(&[0xe9], offset.cast_unsigned())
    }

    /// Halts with interrupts off, for ever.
    pub fn halt(self) -> Asm {
        self.put(&[0xfa, 0xf4, 0xeb, 0xfd])
    }

    /// An invalid instruction, without a handler for it: a triple fault.
    pub fn fault(self) -> Asm {
        self.put(&[0x0f, 0x0b])
    }

    /// The kernel.
    pub fn kernel(self) -> tempfile::NamedTempFile {
        kernel(&self.0)
    }
}
