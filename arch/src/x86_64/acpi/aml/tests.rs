use super::*;

#[test]
fn package_lengths_count_themselves_at_every_width() {
    for (content, width) in [(0, 1), (0x3e, 1), (0x3f, 2), (0xffd, 2), (0xffe, 3), (0xf_fffc, 3), (0xf_fffd, 4)] {
        let encoded = package_length(&vec![0; content]);

        assert_eq!(encoded.len(), content + width);
        let lead = usize::from(encoded[0]);
        assert_eq!(lead >> 6, width - 1);
        let rest = encoded[1..width].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
        let total = if width == 1 { lead } else { rest << 4 | lead & 0xf };
        assert_eq!(total, encoded.len());
    }
}

#[test]
fn integers_take_the_shortest_form() {
    assert_eq!(integer(0).0, [0x00]);
    assert_eq!(integer(1).0, [0x01]);
    assert_eq!(integer(0xff).0, [0x0a, 0xff]);
    assert_eq!(integer(0x1234).0, [0x0b, 0x34, 0x12]);
    assert_eq!(integer(0x1_0000).0, [0x0c, 0, 0, 1, 0]);
    assert_eq!(integer(1 << 32).0, [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn paths_are_prefixed_by_their_number_of_segments() {
    assert_eq!(path("_HID").0, b"_HID");
    assert_eq!(path("ISA").0, b"ISA_");
    assert_eq!(path("\\_SB.PCI0").0, b"\\\x2e_SB_PCI0");
    assert_eq!(path("\\_SB.PCI0.ISA").0, b"\\\x2f\x03_SB_PCI0ISA_");
    assert_eq!(path("\\").0, b"\\\0");
}

#[test]
fn eisa_ids_are_compressed_big_endian() {
    // ACPI 6.5, 19.6.42 gives EisaId("PNP0C09") as 0x090cd041.
    assert_eq!(eisa_id("PNP0C09").0, [0x0c, 0x41, 0xd0, 0x0c, 0x09]);
}
