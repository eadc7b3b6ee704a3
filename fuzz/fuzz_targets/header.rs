//! Arbitrary bytes are identified, or refused with a reason, and opening agrees.
#![no_main]

use evlib::{ErrorKind, OpenOptions};
use evlib_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let extensions = ["raw", "dat", "bin", "aedat", "aedat4", "es", "txt", "csv"];
    let (choice, content) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
    let file = Scratch::new(&format!("header.{}", extensions[choice % extensions.len()]), content);
    match evlib::identify(file.path()) {
        Ok(identity) => {
            assert!(!identity.reasons.is_empty());
            if let Ok(recording) = OpenOptions::default().open(file.path()) {
                assert_eq!(recording.format(), identity.format);
                assert_eq!(recording.identity().reasons, identity.reasons);
            }
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Truncated | ErrorKind::Unsupported), "{error}");
            assert!(OpenOptions::default().open(file.path()).is_err());
        }
    }
});
