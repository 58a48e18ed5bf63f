use std::process::{Command, Stdio};

use super::*;

fn open(path: &Path, write: bool) -> File {
    File::options().read(true).write(write).open(path).unwrap()
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    file
}

fn message(result: Result<bool, Refusal>) -> String {
    result.unwrap_err().hint(Path::new("disk.img")).to_string()
}

#[test]
fn second_writer_is_refused_with_qemus_words() {
    let image = image();
    let (a, b) = (open(image.path(), true), open(image.path(), true));
    assert!(acquire(&a, None, Access::Write, true).unwrap());

    let error = acquire(&b, None, Access::Write, true).unwrap_err().hint(Path::new("disk.img")).within("disk");

    assert_eq!(error.sentence(), "disk: Failed to get \"write\" lock");
    assert_eq!(BlockError::hint_of(&error), Some("Is another process using the image [disk.img]?"));
}

#[test]
fn reader_beside_writer_is_refused_unless_it_shares() {
    let image = image();
    let (a, b) = (open(image.path(), true), open(image.path(), false));
    acquire(&a, None, Access::Write, true).unwrap();

    assert!(message(acquire(&b, None, Access::Read, true)).starts_with("Failed to get shared \"write\" lock"));
    assert!(acquire(&b, None, Access::ReadShared, true).unwrap());
}

#[test]
fn readers_share_and_one_of_them_cannot_become_the_writer() {
    let image = image();
    let (a, b) = (open(image.path(), true), open(image.path(), false));
    acquire(&a, None, Access::Read, true).unwrap();
    acquire(&b, None, Access::Read, true).unwrap();

    assert!(acquire(&a, Some(Access::Read), Access::Write, true).is_err());
    drop(b);
    // A program that another test is just starting has the descriptor, too, until it is a program of its own.
    let upgrades = || acquire(&a, Some(Access::Read), Access::Write, true).is_ok_and(|locked| locked);
    assert!((0..1000).any(|_| upgrades() || pause()));
}

/// A moment for something that must happen soon; false, as it has not happened.
fn pause() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(10));
    false
}

#[test]
fn failed_upgrade_leaves_the_former_locks() {
    let image = image();
    let (a, b, c) = (open(image.path(), true), open(image.path(), false), open(image.path(), true));
    acquire(&a, None, Access::Read, true).unwrap();
    acquire(&b, None, Access::Read, true).unwrap();
    assert!(acquire(&a, Some(Access::Read), Access::Write, true).is_err());
    drop(b);

    assert!(acquire(&c, None, Access::Write, true).is_err(), "the reader's lock must still be there");
}

fn qemu_io(path: &Path, args: &[&str]) -> String {
    let output = Command::new("qemu-io")
        .args(args)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .expect("qemu-io not found: install the package qemu-utils");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn qemu_does_not_write_to_what_we_write_to() {
    let image = image();
    let file = open(image.path(), true);
    acquire(&file, None, Access::Write, true).unwrap();

    let text = qemu_io(image.path(), &["-f", "raw", "-c", "write 0 512"]);

    assert!(text.contains("Failed to get \"write\" lock"), "{text}");
}

#[test]
fn qemu_does_not_write_to_what_we_read() {
    let image = image();
    let file = open(image.path(), false);
    acquire(&file, None, Access::Read, true).unwrap();

    let text = qemu_io(image.path(), &["-f", "raw", "-c", "write 0 512"]);
    assert!(text.contains("Failed to get \"write\" lock"), "{text}");

    let text = qemu_io(image.path(), &["-f", "raw", "-r", "-c", "read 0 512"]);
    assert!(text.contains("read 512/512"), "{text}");
}

#[test]
fn we_do_not_write_to_what_qemu_writes_to() {
    let image = image();
    let mut child = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(image.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io not found: install the package qemu-utils");
    // The prompt is printed once the image is open.
    let mut prompt = [0u8; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let file = open(image.path(), true);

    let text = message(acquire(&file, None, Access::Write, true));
    drop(child.stdin.take());
    child.wait().unwrap();

    // qemu-io itself does not mind other writers; that it writes is what stands against us.
    assert!(text.starts_with("Failed to get shared \"write\" lock"), "{text}");
    assert!(acquire(&file, None, Access::Write, true).unwrap());
}
