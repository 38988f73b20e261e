//! What other processes are called.
//!
//! Invariant: what is returned can be printed to a terminal as it is.

/// Command name of a process, fit for a terminal: a process names itself, with whatever bytes it
/// likes. Empty if it cannot be seen.
pub fn command(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    String::from_utf8_lossy(name).chars().flat_map(visible).collect()
}

/// A character as it is if it is printed as such, escaped otherwise.
fn visible(c: char) -> impl Iterator<Item = char> {
    // What is written right to left or joins others could make a line look like another one.
    let plain = c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    let escaped = if plain { None } else { Some(c.escape_unicode()) };
    escaped.is_none().then_some(c).into_iter().chain(escaped.into_iter().flatten())
}
