//! Streams beside the events: every one that is listed reads to its end, or is refused, the same twice.
#![no_main]

use evlib::{ErrorKind, OpenOptions, Recording};
use evlib_fuzz::{Scratch, options};
use libfuzzer_sys::fuzz_target;

/// Rows of a stream, and whether an error ended it; `None` if it is only listed.
fn read(recording: &Recording, name: &str, limit: usize) -> Option<(usize, bool)> {
    let stream = match recording.side_stream(name) {
        Ok(stream) => stream,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument), "{error}");
            return None;
        }
    };
    let schema = stream.schema();
    let mut rows = 0;
    for batch in stream {
        match batch {
            Ok(batch) => {
                assert_eq!(batch.schema(), schema);
                assert!(batch.num_rows() > 0);
                rows += batch.num_rows();
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Format), "{error}");
                return Some((rows, true));
            }
        }
    }
    // No row is shorter than a byte, but compressed ones.
    assert!(rows <= limit);
    Some((rows, false))
}

fuzz_target!(|data: &[u8]| {
    let Some((first, content)) = data.split_first() else { return };
    let file = Scratch::new("side", content);
    let open = |options: OpenOptions| options.open(file.path()).ok();
    let Some(recording) = open(options(*first).with_threads(2)) else { return };
    let Some(again) = open(options(*first).with_threads(1)) else { return };
    for stream in recording.streams() {
        let limit = if recording.format() == evlib::Format::Aedat4 { usize::MAX } else { content.len() };
        assert_eq!(read(&recording, &stream.name, limit), read(&again, &stream.name, limit));
    }
});
