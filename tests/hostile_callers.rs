//! What callers send, at random: the promises of the fuzz targets hold.

use proptest::{collection::vec, prelude::*, sample::select};

#[path = "fuzz/targets/forwarded.rs"]
mod forwarded;
#[path = "fuzz/targets/keys.rs"]
mod keys;

/// Any bytes, and often those that mean something.
fn data() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "\n",
        ",",
        ";",
        "=",
        "\"",
        "\\",
        " ",
        "&",
        "%",
        "%00",
        "%ff",
        "%41",
        "+",
        "/",
        "for",
        "for=",
        "host=\"",
        "unknown",
        "_x",
        "6.6.6.6",
        "10.83.66.19",
        "::ffff:10.83.66.19",
        "[::1]:80",
        "Bearer",
        "bearer ",
        "Basic ",
        "key",
        "key=",
        "k%65y=",
        "a",
    ];
    let piece = prop_oneof![
        6 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_client_is_who_a_trusted_proxy_says(data in data()) {
        forwarded::forwarded(&data);
    }

    #[test]
    fn a_key_that_is_there_does_not_pass_uncounted(data in data()) {
        keys::keys(&data);
    }
}
