//! What is said to the image tools: templates, and the dice that make command lines of them.
//!
//! In a template `[x]` is left out two times of three, `{a|b|c}` is one of them, and `$name` is another template.

use crate::dice::Dice;

/// Templates by name. Some of the values are none: both programs must refuse them alike.
const PARTS: &[(&str, &str)] = &[
    ("size", "{0|1|511|512|1000|4k|64k|100k|1M|3M|1.5M|2500001|1X}"),
    ("image", "{base|mid|top|top|packed|foreign|out}"),
    ("own", "{base|mid|top|packed|out}"),
    ("format", "{raw|raw|raw|qcow2|qcow2|qcow2|vmdk|vdi|vhdx|vpc|qed|parallels|luks|bogus}"),
    ("cache", "{none|writeback|writethrough|directsync|unsafe|bogus}"),
    (
        "good",
        "-o cluster_size={512|4k|64k|64k|64k|64k,extended_l2=on|2M},refcount_bits={16|16|16|1|64},\
         lazy_refcounts={on|off},compression_type={zlib|zstd}",
    ),
    ("opts", "$opt[,$opt][,$opt]"),
    (
        "opt",
        "{cluster_size={512|1k|4k|64k|256k|2M|1000|4M}|refcount_bits={1|2|8|16|64|3}|compat={0.10|1.1|v2|v3|1.2}|\
         extended_l2={on|off}|lazy_refcounts={on|off|maybe}|preallocation={off|metadata|falloc|full|bogus}|\
         compression_type={zlib|zstd|lz4}|data_file=data|data_file=data,data_file_raw=on|data_file_raw=on|size=$size|\
         nocow=on|backing_file=base|backing_file=base,backing_fmt=raw|foo=bar}",
    ),
    ("changed", "{compat={0.10|1.1}|refcount_bits={1|8|16|64}|lazy_refcounts={on|off}|size=$size|cluster_size=4k}"),
    ("json", "[--output {json|json|human|foo}]"),
    ("open", "[-U] [-f $format] $image"),
    (
        "named",
        "--image-opts {driver=qcow2,file.filename=$image|driver=raw,file.driver=file,file.filename=$image|\
      file.filename=$image|driver=bogus,file.filename=top}",
    ),
    ("any", "{$open|$open|$open|$named|@json}"),
];

/// What `@json` is in a command line: its brackets are none of a template's.
pub(super) const JSON_NAME: &str = r#"json:{'driver':'qcow2','file':{'driver':'file','filename':'top'}}"#;

/// Verbs that only look.
const LOOKS: &[&str] = &[
    "info $json [--backing-chain] $any",
    "map $json [-s $size] [-l $size] $any",
    "check $json [-q] [-T $cache] [-U] {[-f $format] $own|--image-opts driver=qcow2,file.filename=$own}",
    "measure $json -O {raw|qcow2} [-o $opts] {$any|--size {$size|2T}}",
    "compare [-s] [-q] [-p] [-U] [-f $format] [-F $format] $image $image",
    "snapshot -l [-U] $image",
];

/// Verbs that change or make something.
const CHANGES: &[&str] = &[
    "create [-q] [-u] [-f {raw|qcow2|qcow2|bogus}] [-b {base|nowhere} [-F $format]] [-o $opts] out [$size]",
    "create [-q] -f qcow2 [-o $opts] out $size",
    "convert [-p] [-q] [-c] [-W] [-C] [-m {1|8|16|17}] [-S {0|512|4k|64k|100}] [-t $cache] [-T $cache] \
     [-O {raw|qcow2}] [-o $opts] [-B base -F raw] {$any|$any|base mid} out",
    "convert -O qcow2 [-c] [-W] [-o $opts] $image out",
    "convert -n [--target-is-zero] [-O {raw|qcow2}] $image {out|packed}",
    "convert [--bitmaps [--skip-broken-bitmaps]] [-l {one|1|snapshot.id=1|snapshot.name=none}] -O qcow2 top out",
    "resize [-q] [--shrink] [--preallocation={off|metadata|falloc|full|foo}] [-f $format] {top|base|out} {|+|-}$size",
    "rebase [-q] [-p] [-u] [-b {base [-F @base]|mid -F {raw|qcow2}|none}] {top|top|out}",
    "commit [-q] [-d] [-p] [-b {base|mid|none}] [-t $cache] {top|mid|base}",
    "snapshot [-q] {-c|-a|-d} {one|two} {top|mid|packed|base}",
    "amend [-q] [-p] [-f $format] -o $changed[,$changed] {top|packed|base}",
    "bitmap {--add|--add -g {4k|64k|100}|--remove|--clear|--enable|--disable|--merge {b0|b1|b2}|--add --disable} \
     [-f qcow2] {top|packed|base} {b0|b1|b2}",
    "dd [-U] [-f $format] [-O {raw|qcow2}] [bs={512|1000|64k|1M}] [count={0|1|7|1000}] [skip={0|1|5|5000}] if={base|mid|top|packed|foreign} \
     of=out",
    "check -r {leaks|all|foo} $json {mid|packed|base|out}",
];

/// How the images that a round begins with are made, in order; what fails is left out.
pub(super) const BEGIN: &[&str] = &[
    "create -q -f {raw|raw|qcow2} base {2500096|1M|3M}",
    "create -q -f qcow2 {$good|$good|-o compat=0.10} [-o data_file=mid.data] -b base -F @base mid {|2M|4M}",
    "create -q -f qcow2 {$good|$good|-o compat=0.10} -b mid -F qcow2 top {|1M|3000000|4M}",
];

/// What `qemu-io` writes into them.
pub(super) const WRITE: &str = "{write -P {1|2|7}|write -P {1|2|7}|write -z|write -z -u|discard} \
    {0|512|3000|4k|64k|100k|512k|900k} {512|1000|4k|60k|128k}";

/// What is there beside the chain.
pub(super) const MORE: &[&str] = &[
    "[snapshot -c one top]",
    "[bitmap --add top b0]",
    "convert -O qcow2 {|-c|-o data_file=packed.data|-o data_file=packed.data,data_file_raw=on} top packed",
    "convert -O {vmdk|vdi|vhdx|qed|parallels|vpc|raw} top foreign",
];

/// Makes command lines.
pub(super) struct Speaker(pub(super) Dice);

impl Speaker {
    /// A command line for a verb that looks.
    pub(super) fn look(&mut self) -> String {
        let template = self.0.pick(LOOKS);
        self.words(template)
    }

    /// A command line for a verb that changes.
    pub(super) fn change(&mut self) -> String {
        let template = self.0.pick(CHANGES);
        self.words(template)
    }

    /// A command line as the template has it.
    pub(super) fn words(&mut self, template: &str) -> String {
        let mut text = String::new();
        self.expand(template, &mut text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn expand(&mut self, template: &str, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{', '$']) {
            out.push_str(&rest[..at]);
            let (open, after) = rest[at..].split_at(1);
            if open == "$" {
                let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
                let (name, left) = after.split_at(end);
                rest = left;
                self.part(name, out);
                continue;
            }
            let end = closing(after);
            let (inside, left) = (&after[..end], &after[end + 1..]);
            rest = left;
            if open == "{" {
                let choice = self.0.pick(&choices(inside));
                self.expand(choice, out);
            } else if self.0.roll(3) == 0 {
                self.expand(inside, out);
            }
        }
        out.push_str(rest);
    }

    fn part(&mut self, name: &str, out: &mut String) {
        let (_, template) = PARTS.iter().find(|(part, _)| *part == name).expect("the template is in the table");
        self.expand(template, out);
    }
}

/// Where the bracket that is open at the start of `text` is closed.
fn closing(text: &str) -> usize {
    let mut depth = 1;
    for (at, letter) in text.char_indices() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket of a template is not closed: {text}")
}

/// What stands between the bars that are in no inner bracket.
fn choices(text: &str) -> Vec<&str> {
    let (mut found, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            '|' if depth == 0 => {
                found.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[from..]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_says_the_same() {
        let lines = |seed| {
            let mut speaker = Speaker(Dice::new(seed));
            (0..50).map(|_| speaker.change()).collect::<Vec<_>>()
        };

        assert_eq!(lines(3), lines(3));
        assert_ne!(lines(3), lines(4));
    }

    #[test]
    fn nothing_of_a_template_is_left_in_a_command_line() {
        let mut speaker = Speaker(Dice::new(1));
        for _ in 0..2000 {
            for line in [speaker.look(), speaker.change(), speaker.words(BEGIN[1]), speaker.words(WRITE)] {
                assert!(!line.contains(['[', ']', '{', '}', '$', '|']), "{line}");
            }
        }
    }
}
