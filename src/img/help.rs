//! Help texts.

/// A verb, the words after it, and what it is for.
const VERBS: [(&str, &str, &str); 3] = [
    (
        "convert",
        "[-cpqnWCU] [-f FORMAT] [-O FORMAT] [-o OPTIONS] [-B BACKING -F FORMAT] [-S BYTES] [-m THREADS] [-r RATE] \
         [-t CACHE] [-T CACHE] [--salvage] [--target-is-zero] [--image-opts] [--target-image-opts] SOURCE... TARGET",
        "Copy images, end to end, into a new one (-n: one that is there). -c compresses, -S 0 writes zeroes as data, -W \
         writes in any order.",
    ),
    (
        "create",
        "[-q] [-f FORMAT] [-b BACKING -F FORMAT] [-u] [-o OPTIONS] FILE [SIZE]",
        "Make a new image. -o help lists the format's options; -u does not look at the backing file.",
    ),
    ("info", "[-U] [-f FORMAT] [--image-opts] [--output human|json] [--backing-chain] FILE", "Tell what an image is."),
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
