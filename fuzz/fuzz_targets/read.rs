//! Everything that can be asked of a file agrees: counts, problems, triggers, times, one read, batches.
#![no_main]

use evlib_fuzz::{Scratch, agree, open, options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, content)) = data.split_first() else { return };
    let file = Scratch::new("read", content);
    let Some(recording) = open(file.path(), &options(*first)) else { return };
    agree(&recording, content.len(), first & 0x80 != 0);
});
