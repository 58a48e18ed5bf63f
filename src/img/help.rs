//! Help texts.

/// A verb, the words after it, and what it is for.
const VERBS: [(&str, &str, &str); 15] = [
    (
        "amend",
        "[-pq] [-f FORMAT] [-t CACHE] -o OPTIONS FILE",
        "Change options of an image. -o help lists those that can be changed.",
    ),
    (
        "bench",
        "[-nqwU] [-f FORMAT] [-c COUNT] [-d DEPTH] [-s BYTES] [-S STEP] [-o OFFSET] [-i AIO] [-t CACHE] \
         [--pattern BYTE] [--flush-interval COUNT] [--no-drain] FILE",
        "Send requests and tell how long they took. -w writes over the image's content.",
    ),
    (
        "bitmap",
        "(--add | --remove | --clear | --enable | --disable | --merge BITMAP)... [-g BYTES] [-b FILE [-F FORMAT]] \
         [-f FORMAT] FILE BITMAP",
        "Change a persistent bitmap; -b takes the one to merge from another image.",
    ),
    (
        "check",
        "[-qU] [-f FORMAT] [-T CACHE] [-r leaks|all] [--output human|json] FILE",
        "Check an image's metadata; -r repairs. Exit code 2: corrupt, 3: leaks, 63: the format has no check.",
    ),
    (
        "commit",
        "[-dpq] [-f FORMAT] [-t CACHE] [-b BASE] [-r RATE] FILE",
        "Write what an overlay has into the image beneath, or into BASE further down, and empty the overlay (not with \
         -d or -b).",
    ),
    (
        "compare",
        "[-pqsU] [-f FORMAT] [-F FORMAT] [-T CACHE] FILE FILE",
        "Do two images read alike? -s: are they also of one size and allocated alike? Exit code 1: no.",
    ),
    (
        "convert",
        "[-cpqnWCU] [-f FORMAT] [-O FORMAT] [-o OPTIONS] [-B BACKING -F FORMAT] [-S BYTES] [-m THREADS] [-r RATE] \
         [-t CACHE] [-T CACHE] [--salvage] [--bitmaps] [--target-is-zero] [--target-image-opts] SOURCE... TARGET",
        "Copy images, end to end, into a new one (-n: one that is there). -c compresses, -S 0 writes zeroes as data, -W \
         writes in any order.",
    ),
    (
        "create",
        "[-qu] [-f FORMAT] [-b BACKING -F FORMAT] [-o OPTIONS] FILE [SIZE]",
        "Make a new image. -o help lists the format's options; -u does not look at the backing file.",
    ),
    (
        "dd",
        "[-U] [-f FORMAT] [-O FORMAT] [bs=BYTES] [count=BLOCKS] [skip=BLOCKS] if=FILE of=FILE",
        "Copy part of an image into a new one. COUNT counts from the image's start, also with skip.",
    ),
    ("info", "[-U] [-f FORMAT] [--output human|json] [--backing-chain] FILE", "Tell what an image is."),
    (
        "map",
        "[-U] [-f FORMAT] [-s OFFSET] [-l LENGTH] [--output human|json] FILE",
        "Tell where the bytes of an image are.",
    ),
    (
        "measure",
        "[-U] [-O FORMAT] [-o OPTIONS] [--output human|json] (--size BYTES | [-f FORMAT] FILE)",
        "Tell how much space an image would take.",
    ),
    (
        "rebase",
        "[-cpquU] [-f FORMAT] [-t CACHE] [-T CACHE] -b BACKING [-F FORMAT] FILE",
        "Put another image beneath one (-b '': none) and keep its content, compressed with -c; -u changes the name \
         only.",
    ),
    (
        "resize",
        "[-q] [-f FORMAT] [--preallocation MODE] [--shrink] FILE [+|-]SIZE",
        "Change the size of a disk. --shrink: what is beyond may be lost.",
    ),
    (
        "snapshot",
        "[-qU] [-f FORMAT] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILE",
        "List, apply, create or delete internal snapshots.",
    ),
];

/// The help text of the program.
pub(super) fn all(program: &str) -> String {
    let mut text =
        format!("usage: {program} VERB [OPTIONS] ...\nDisk images: make, look into, copy, change.\n\nVerbs:\n");
    for (name, words, _) in VERBS {
        text += &format!("  {name} {words}\n");
    }
    text += "\nIn place of -f FORMAT, --image-opts takes FILE as driver=...,file.filename=...\n\
             Sizes are in bytes, or with a suffix k, M, G, T, P or E (powers of 1024).\n\
             Cache modes: none, writeback, writethrough, directsync, unsafe.\n\
             `VERB --help` says more about one of them.\n\n";
    text += &format!("Supported formats: {}", super::open::FORMATS.join(" "));
    text
}

/// The help text of one verb.
pub(super) fn verb(program: &str, name: &str) -> String {
    let found = VERBS.iter().find(|(verb, ..)| *verb == name);
    let (_, words, meaning) = found.copied().unwrap_or((name, "", ""));
    format!("usage: {program} {name} {words}\n{meaning}")
}
