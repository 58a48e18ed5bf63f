//! Damaged images through every verb: an exit code, in time and within memory.

use crate::rig::Rig;

/// A small random source.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }

    /// Changes single bytes and big-endian words where headers and tables are.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.roll(6) {
            let reach = if self.roll(2) == 0 { 512 } else { bytes.len() as u64 };
            let at = self.roll(reach.min(bytes.len() as u64)) as usize & !7;
            let word = match self.roll(5) {
                0 => u64::MAX,
                1 => 1 << self.roll(64),
                2 => self.roll(1 << 20) & !511,
                3 => self.roll(u64::MAX),
                _ => 0,
            };
            if let Some(place) = bytes.get_mut(at..at + 8) {
                place.copy_from_slice(&word.to_be_bytes());
            }
        }
        if self.roll(8) == 0 {
            bytes.truncate(self.roll(bytes.len() as u64) as usize);
        }
    }
}

const VERBS: [&str; 17] = [
    "convert -O raw IMAGE copy",
    "convert -O qcow2 -c IMAGE copy",
    "dd bs=64k count=10 if=IMAGE of=copy",
    "info --output json IMAGE",
    "info --backing-chain IMAGE",
    "check IMAGE",
    "map --output json IMAGE",
    "measure -O qcow2 IMAGE",
    "compare IMAGE short.raw",
    "snapshot -l IMAGE",
    "check -r all IMAGE",
    "snapshot -c new IMAGE",
    "resize -q IMAGE +1M",
    "rebase -u -b '' IMAGE",
    "amend -o lazy_refcounts=on IMAGE",
    "bench -q -c 20 IMAGE",
    "commit -q IMAGE",
];

#[test]
fn damaged_images_never_kill_hang_or_grow_a_verb() {
    let rig = Rig::new();
    let heavy = std::env::var("RHEA_HEAVY").ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(1);
    for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
        rig.qemu(&format!("convert -O {format} short.raw short.{format}"));
    }
    let images = [
        "full.qcow2",
        "packed.qcow2",
        "extended.qcow2",
        "top.qcow2",
        "short.vmdk",
        "short.vdi",
        "short.vhdx",
        "short.vpc",
        "short.qed",
        "short.parallels",
    ];
    let mut dice = Dice(0x5eed_0001);
    for (n, image) in images.iter().cycle().take(images.len() * 2 * heavy as usize).enumerate() {
        let mut bytes = std::fs::read(rig.path(image)).unwrap();
        dice.damage(&mut bytes);
        let small = bytes.len() < 64 << 20;
        assert!(small);
        for verb in VERBS {
            std::fs::write(rig.path("damaged"), &bytes).unwrap();
            let words = verb.replace("IMAGE", "damaged");
            let code = rig.bounded(&words);
            if !matches!(code, Some(0..=4 | 63)) {
                let kept = std::env::temp_dir().join(format!("rhea-damaged-{n}"));
                std::fs::write(&kept, &bytes).unwrap();
                panic!("{image}, {words}: exit code {code:?}; the image is {}", kept.display());
            }
        }
    }
}
