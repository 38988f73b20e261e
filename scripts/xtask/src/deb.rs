//! The Debian package: what `make install` puts into a tree, with the papers that Debian wants.
//!
//! Invariants: nothing outside of the directory named is written but Cargo's target directory; programs
//! are stripped, so a debug build gives the same package, but for its slower programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Name of the package.
pub const PACKAGE: &str = "vale-rs";

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the package in `dir` from the tools of a Cargo profile; returns its file.
pub fn build(dir: &Path, profile: &str) -> anyhow::Result<PathBuf> {
    crate::make_dir(dir)?;
    let dir = dir.canonicalize().with_context(|| format!("finding {}", dir.display()))?;
    let tree = dir.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    install(&tree, profile)?;
    for binary in binaries(&tree) {
        run(Command::new("strip")
            .args(["--strip-unneeded", "--remove-section=.comment"])
            .arg(binary))?;
    }
    papers(&tree)?;
    let depends = dependencies(&dir, &tree)?;
    control(&tree, &depends)?;
    let architecture = run(Command::new("dpkg").arg("--print-architecture"))?;
    let package =
        dir.join(format!("{PACKAGE}_{}_{}.deb", env!("CARGO_PKG_VERSION"), architecture.trim()));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    Ok(package)
}

/// What is machine code in the tree: the tools, and the library that programs preload.
fn binaries(tree: &Path) -> Vec<PathBuf> {
    let tools = crate::TOOLS.map(|tool| tree.join("usr/bin").join(tool));
    tools.into_iter().chain([tree.join("usr/lib/vale-rs/libnetmap_preload.so")]).collect()
}

/// `make install` into the tree, at the places where Debian has such things.
fn install(tree: &Path, profile: &str) -> anyhow::Result<()> {
    let mut make = Command::new("make");
    make.current_dir(repository())
        .args(["--silent", "install", "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", tree.display()))
        .arg(format!("PROFILE={profile}"))
        .arg(format!("docdir=/usr/share/doc/{PACKAGE}"))
        .arg("zshdir=/usr/share/zsh/vendor-completions");
    if let Some(cargo) = std::env::var_os("CARGO") {
        make.env("CARGO", cargo);
    }
    // What an outer make hands on is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        make.env_remove(variable);
    }
    run(&mut make).map(|_| ())
}

/// Compresses pages and changelogs, and writes the copyright file, all as Debian's policy says.
fn papers(tree: &Path) -> anyhow::Result<()> {
    let doc = tree.join("usr/share/doc").join(PACKAGE);
    // The copyright file has the one, and Debian has the other.
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::remove_file(doc.join(licence)).with_context(|| format!("removing {licence}"))?;
    }
    let mit =
        fs::read_to_string(repository().join("LICENSE-MIT")).context("reading LICENSE-MIT")?;
    write(&doc.join("copyright"), &copyright(&mit))?;
    let day = run(Command::new("date").args(["-u", "-R", "-d", crate::DATE]))?;
    let changelog = format!(
        "{PACKAGE} ({}) unstable; urgency=medium\n\n  * What changed is in CHANGELOG.md beside this \
         file.\n\n -- {}  {}\n",
        env!("CARGO_PKG_VERSION"),
        maintainer(),
        day.trim()
    );
    write(&doc.join("changelog"), &changelog)?;
    let mut files = vec![doc.join("changelog")];
    for section in ["man7", "man8"] {
        files.extend(files_below(&tree.join("usr/share/man").join(section))?);
    }
    run(Command::new("gzip").args(["-9", "-n"]).args(files)).map(|_| ())
}

/// Who is named in the package: as Debian's own tools take it from the environment.
fn maintainer() -> String {
    let or = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!(
        "{} <{}>",
        or("DEBFULLNAME", "The vale-rs authors"),
        or("DEBEMAIL", "vale-rs@vale-rs.invalid")
    )
}

/// In Debian's machine-readable form.
fn copyright(mit: &str) -> String {
    let (holder, terms) = mit.split_once("\n\nPermission").unwrap_or((mit, ""));
    let holder = holder.lines().last().unwrap_or_default().trim_start_matches("Copyright (c) ");
    let terms: String = format!("Permission{terms}")
        .lines()
        .map(|line| if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: {PACKAGE}\n\
         Comment: The programs contain the Rust crates that Cargo.lock names, each under its own\n \
         licence.\n\n\
         Files: *\nCopyright: {holder}\nLicense: Expat or Apache-2.0\n\n\
         License: Expat\n{terms}\n\
         License: Apache-2.0\n On Debian systems the licence is in\n \
         /usr/share/common-licenses/Apache-2.0.\n"
    )
}

/// The packages of the shared libraries that the programs need, as Debian's tool finds them.
fn dependencies(dir: &Path, tree: &Path) -> anyhow::Result<String> {
    // It wants to be where a source package is.
    let source = dir.join("source");
    write(
        &source.join("debian/control"),
        &format!("Source: {PACKAGE}\n\nPackage: {PACKAGE}\nArchitecture: any\n"),
    )?;
    let mut find = Command::new("dpkg-shlibdeps");
    find.current_dir(&source).arg("-O");
    for binary in binaries(tree) {
        find.arg(format!("-e{}", binary.display()));
    }
    let found = run(&mut find)?;
    let depends = found.trim().strip_prefix("shlibs:Depends=").unwrap_or_default().to_owned();
    ensure!(!depends.is_empty(), "dpkg-shlibdeps found no libraries");
    fs::remove_dir_all(&source).with_context(|| format!("removing {}", source.display()))?;
    Ok(depends)
}

fn control(tree: &Path, depends: &str) -> anyhow::Result<()> {
    let files = files_below(tree)?;
    let mut bytes = 0;
    for file in &files {
        bytes +=
            fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?.len();
    }
    let mut names = Vec::new();
    for file in &files {
        names.push(file.strip_prefix(tree).context("below the tree")?);
    }
    let sums = run(Command::new("md5sum").current_dir(tree).args(&names))?;
    write(&tree.join("DEBIAN/md5sums"), &sums)?;
    let architecture = run(Command::new("dpkg").arg("--print-architecture"))?;
    let text = format!(
        "Package: {PACKAGE}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {}\n\
         Depends: {depends}\nSection: net\nPriority: optional\n\
         Description: VALE switches in user space, and virtual machines on them\n \
         The netmap API and the VALE learning switch as shared memory between\n \
         processes: no kernel module, no daemon, no root.\n .\n \
         This package has a packet generator (nm-pktgen), a bridge between ports\n \
         (nm-bridge), a control program (vale-ctl), and a small virtual machine\n \
         monitor whose e1000 keeps up with the switch (e1000pv-vmm). Programs\n \
         written for netmap run on the same switches by nm-run.\n",
        env!("CARGO_PKG_VERSION"),
        architecture.trim(),
        maintainer(),
        bytes.div_ceil(1024),
    );
    write(&tree.join("DEBIAN/control"), &text)
}

/// All files below a directory, sorted.
fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}

/// Writes a file that all may read, in a directory that is made if missing.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    crate::make_dir(file.parent().context("a file is in a directory")?)?;
    fs::write(file, text)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o644)))
        .with_context(|| format!("writing {}", file.display()))
}

/// What a program prints that succeeds.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading what {program} prints"))
}
