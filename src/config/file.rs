//! Reads a file of limits, which may be no file at all: [`read`].

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// The most bytes of a file of limits: room for as many overrides as there may be.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// The text of a file.
///
/// # Errors
/// It is no regular file, such as a pipe, of which a read may never end; it is larger than
/// [`MAX_BYTES`]; or the system says so.
pub(super) fn read(path: &Path) -> io::Result<String> {
    // Before it is opened: to open a pipe waits for a writer.
    check(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    let mut text = String::new();
    // A file may grow while it is read.
    let read = file.take(MAX_BYTES.saturating_add(1)).read_to_string(&mut text);
    match u64::try_from(text.len()) {
        Ok(bytes) if bytes <= MAX_BYTES => read.map(|_| text),
        _ => Err(too_large()),
    }
}

fn check(metadata: &fs::Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > MAX_BYTES { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> io::Error {
    let text = format!("it is larger than {} MiB", MAX_BYTES >> 20);
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_at_most_the_bound_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.toml");
        let write = |bytes: u64| {
            let file = File::create(&path).unwrap();
            file.set_len(bytes).unwrap();
        };
        write(MAX_BYTES);
        assert_eq!(read(&path).unwrap().len() as u64, MAX_BYTES);
        for bytes in [MAX_BYTES + 1, 3 << 30] {
            write(bytes);
            assert_eq!(read(&path).unwrap_err().to_string(), "it is larger than 4 MiB");
        }
        assert_eq!(read(folder.path()).unwrap_err().to_string(), "it is no regular file");
        assert!(read(&folder.path().join("missing")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_a_device_or_a_socket_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &Path| {
            let link = folder.path().join(name);
            std::os::unix::fs::symlink(to, &link).unwrap();
            link
        };
        let file = folder.path().join("limits.toml");
        fs::write(&file, "a = 1").unwrap();
        assert_eq!(read(&link("to_file", &file)).unwrap(), "a = 1");
        let zeros = link("to_zeros", Path::new("/dev/zero"));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [zeros, socket] {
            assert_eq!(read(&path).unwrap_err().to_string(), "it is no regular file");
        }
    }
}
