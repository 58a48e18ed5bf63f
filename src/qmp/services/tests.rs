use proptest::prelude::*;

use super::base64::{decode, encode};

#[test]
fn base64_of_the_rfc() {
    // RFC 4648, section 10.
    for (plain, text) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
    {
        assert_eq!(encode(plain.as_bytes()), text);
        assert_eq!(decode(text).unwrap(), plain.as_bytes());
    }
}

#[test]
fn what_is_no_base64_is_refused() {
    for text in ["!!", "Zg=", "====", "Z===", "Zg==Zg==", "Zé=="] {
        assert_eq!(decode(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(data in proptest::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(decode(&encode(&data)).unwrap(), data);
    }
}
