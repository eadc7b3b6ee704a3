//! A saved index whose bytes are changed is ignored: counts and rows stay those of the recording.
#![no_main]

use evlib::{ErrorKind, Selection};
use evlib_fuzz::{Scratch, open, options, problem_rows, read, rows};
use libfuzzer_sys::fuzz_target;

/// Bytes of an input before the file: opening, kind of damage, and up to two changes of (position, value).
const HEAD: usize = 8;

/// Removes the index with the recording.
struct Index(std::path::PathBuf);

impl Drop for Index {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fuzz_target!(|data: &[u8]| {
    if data.len() < HEAD {
        return;
    }
    let (head, content) = data.split_at(HEAD);
    let file = Scratch::new("index", content);
    let options = options(head[0]);
    let Some(recording) = open(file.path(), &options) else { return };
    let events = read(&recording, &Selection::default());
    let count = recording.event_count().expect("count");
    let problems = problem_rows(&recording.problems().expect("problems"));
    let index = match recording.save_index() {
        Ok(path) => Index(path),
        // Rows of some formats are found by number.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            return;
        }
    };

    let saved = std::fs::read(&index.0).expect("the index");
    let mut damaged = saved.clone();
    let word = |at: usize| usize::from(head[at]) | usize::from(head[at + 1]) << 8;
    for change in [2, 5].into_iter().take(1 + usize::from(head[1] & 1)) {
        let at = word(change) % damaged.len();
        damaged[at] ^= head[change + 2];
    }
    match head[1] >> 1 & 3 {
        1 => damaged.truncate(word(2) % damaged.len()),
        2 => damaged.extend(&content[..content.len().min(64)]),
        3 => damaged = content.to_vec(),
        _ => {}
    }
    std::fs::write(&index.0, &damaged).expect("the index can be replaced");

    let again = open(file.path(), &options).expect("an index does not change whether a recording opens");
    assert!(rows(&read(&again, &Selection::default())).eq(rows(&events)));
    assert_eq!(again.event_count().expect("count"), count);
    assert_eq!(again.time_range().expect("time range"), recording.time_range().expect("time range"));
    let mut found = problem_rows(&again.problems().expect("problems"));
    let stale = found.iter().position(|problem| problem.0 == "STALE_INDEX").map(|at| found.remove(at));
    assert_eq!(stale.is_some(), damaged != saved, "a changed index is said to be stale, a whole one is used");
    assert_eq!(found, problems);
});
