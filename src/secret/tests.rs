use rhea_block::crypto::Secrets;

use super::*;

fn spec(data: &str) -> SecretSpec {
    SecretSpec {
        id: "s".to_owned(),
        data: Some(data.to_owned()),
        file: None,
        format: SecretFormat::Raw,
        keyid: None,
        iv: None,
    }
}

fn kept(spec: &SecretSpec) -> Vec<u8> {
    let secrets = secrets_with_key();
    add(&secrets, spec).unwrap();
    secrets.get("s").unwrap().bytes().to_vec()
}

fn secrets_with_key() -> Secrets {
    let secrets = Secrets::default();
    let key = spec("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    add(&secrets, &SecretSpec { id: "k".to_owned(), format: SecretFormat::Base64, ..key }).unwrap();
    secrets
}

#[test]
fn text_file_and_base64_give_the_same_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "bGV0bWVpbg==\n").unwrap();
    let from_file = SecretSpec { data: None, file: Some(path), format: SecretFormat::Base64, ..spec("") };

    assert_eq!(kept(&spec("letmein")), b"letmein");
    assert_eq!(kept(&from_file), b"letmein");
}

#[test]
fn secret_under_a_master_key_is_decrypted() {
    // openssl enc -aes-256-cbc -K 0001..1f -iv 0001..0f -a, as libvirt does it.
    let wrapped = SecretSpec {
        keyid: Some("k".to_owned()),
        iv: Some("AAECAwQFBgcICQoLDA0ODw==".to_owned()),
        format: SecretFormat::Base64,
        ..spec("SI4JuWqmJF8bjD9IJ662eg==")
    };
    assert_eq!(kept(&wrapped), b"letmein");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, BASE64.decode("SI4JuWqmJF8bjD9IJ662eg==").unwrap()).unwrap();
    let bytes = SecretSpec { data: None, file: Some(path), format: SecretFormat::Raw, ..wrapped.clone() };
    assert_eq!(kept(&bytes), b"letmein");

    let text = SecretSpec { format: SecretFormat::Raw, ..wrapped };
    let refused = add(&secrets_with_key(), &text).unwrap_err().to_string();
    assert_eq!(refused, "Length 24 must be a multiple of block size 16");
}

#[test]
fn wrong_text_missing_file_and_unknown_key_are_told() {
    let secrets = Secrets::default();
    let base64 = SecretSpec { format: SecretFormat::Base64, ..spec("x?") };
    let missing = SecretSpec { data: None, file: Some("/nowhere/secret".into()), ..spec("") };
    let keyless = SecretSpec { keyid: Some("none".to_owned()), iv: Some(String::new()), ..spec("") };

    assert_eq!(add(&secrets, &base64).unwrap_err().to_string(), "Base64 data contains invalid characters");
    assert_eq!(add(&secrets, &missing).unwrap_err().to_string(), "Unable to read /nowhere/secret");
    assert_eq!(add(&secrets, &keyless).unwrap_err().to_string(), "No secret with id 'none'");
}
