use super::*;
use crate::x86_64::boot::tests::fixture::xorshift;

/// Packs with an independent encoder.
pub(in super::super) fn frame(data: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for block in data.chunks(BLOCK) {
        let packed = lz4_flex::block::compress(block);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

/// Data of which every kind of sequence arises: noise, short and long runs, near and far repetitions.
fn sample(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out: Vec<u8> = Vec::new();
    while out.len() < len {
        let count = xorshift(&mut state) as usize % 200 + 1;
        match xorshift(&mut state) % 5 {
            0 => out.extend((0..count).map(|_| xorshift(&mut state) as u8)),
            1 => out.extend(std::iter::repeat_n(0, count * 20)),
            2 => out.extend(std::iter::repeat_n(state as u8, count)),
            _ => {
                let back = (xorshift(&mut state) as usize % 40 + 1).min(out.len());
                let start = out.len() - back;
                (0..count.min(back * 30))
                    .for_each(|n| out.push(out.get(start + n % back.max(1)).copied().unwrap_or(0)));
            }
        }
    }
    out.truncate(len);
    out
}

#[test]
fn unpacks_what_another_encoder_packed() {
    for seed in 1..200 {
        let data = sample(seed, (seed * 97) as usize);
        let packed = frame(&data);
        for fresh in [false, true] {
            let mut out = vec![if fresh { 0 } else { 0xee }; data.len()];

            assert_eq!(decode(&packed, &mut out, fresh).unwrap(), data.len());
            assert!(out == data, "seed {seed}, fresh {fresh}");
        }
    }
}

#[test]
fn blocks_follow_one_another() {
    let data = sample(5, BLOCK + 100_000);
    let mut out = vec![0; data.len()];

    assert_eq!(decode(&frame(&data), &mut out, true).unwrap(), data.len());
    assert!(out == data);
}

#[test]
fn overlapping_matches_repeat_at_every_distance() {
    for distance in 1..40usize {
        for length in [4, 15, 18, 19, 40, 41, 100] {
            let pattern: Vec<u8> = (1..=distance as u8).collect();
            // A sequence of literals and a match, then the literals every block ends with, far from the end or not.
            let mut block = Vec::new();
            push_sequence(&mut block, &pattern, Some((distance, length)));
            push_sequence(&mut block, &[9; 64], None);
            let expected: Vec<u8> = (0..distance + length).map(|n| pattern[n % distance]).chain([9; 64]).collect();

            let mut out = vec![0; expected.len()];
            assert_eq!(decode_block(&block, &mut out, true), Some(expected.len()));
            assert_eq!(out, expected, "distance {distance}, length {length}");
        }
    }
}

fn push_sequence(block: &mut Vec<u8>, literals: &[u8], matched: Option<(usize, usize)>) {
    let nibble = |value: usize| value.min(LONG) as u8;
    let tail = |value: usize| {
        let mut rest = value.checked_sub(LONG)?;
        let mut bytes = Vec::new();
        while rest >= 255 {
            bytes.push(255);
            rest -= 255;
        }
        bytes.push(rest as u8);
        Some(bytes)
    };
    let length = matched.map_or(0, |(_, length)| length - LEAST_MATCH);
    block.push(nibble(literals.len()) << 4 | nibble(length));
    block.extend(tail(literals.len()).unwrap_or_default());
    block.extend(literals);
    if let Some((distance, _)) = matched {
        block.extend((distance as u16).to_le_bytes());
        block.extend(tail(length).unwrap_or_default());
    }
}

#[test]
fn broken_blocks_are_refused() {
    let mut out = [0; 100];
    let zero_distance = [0x14, b'a', 0, 0, 0x50, 1, 2, 3, 4, 5];
    let before_start = [0x14, b'a', 2, 0, 0x50, 1, 2, 3, 4, 5];
    let endless_length = [0xf0, 255, 255, 255];
    let too_long = [0x1f, b'a', 1, 0, 255, 0, 0x50, 1, 2, 3, 4, 5];

    for block in [&zero_distance[..], &before_start, &endless_length, &too_long, &[]] {
        assert_eq!(decode_block(block, &mut out, false), None, "{block:?}");
    }
}

#[test]
fn damaged_blocks_agree_with_another_decoder() {
    let mut state = 77;
    for seed in 1..60 {
        let data = sample(seed, 4000);
        let packed = lz4_flex::block::compress(&data);
        for _ in 0..40 {
            let mut damaged = packed.clone();
            let at = xorshift(&mut state) as usize % damaged.len();
            damaged[at] = xorshift(&mut state) as u8;
            let (mut ours, mut theirs) = (vec![0; 4000], vec![0; 4000]);

            let ours_len = decode_block(&damaged, &mut ours, true);
            let theirs_len = lz4_flex::block::decompress_into(&damaged, &mut theirs).ok();

            // The other decoder refuses more (it knows the rules on a block's end); what it takes must be equal.
            if let Some(len) = theirs_len {
                assert_eq!(ours_len, Some(len));
                assert!(ours[..len] == theirs[..len], "seed {seed}");
            }
        }
    }
}
