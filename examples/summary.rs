//! Prints what a recording is and how fast it is read: `cargo run --release --example summary -- FILE [TIMES]`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::time::Instant;

use evlib::{Recording, Result, Selection};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: summary FILE [TIMES]");
        std::process::exit(2);
    };
    let times = arguments.next().and_then(|times| times.parse().ok()).unwrap_or(1);
    for _ in 0..times {
        let recording = Recording::open(&path)?;
        let start = Instant::now();
        let count = recording.event_count()?;
        let indexed = start.elapsed();
        let events = recording.read(Selection::default())?;
        let read = start.elapsed().saturating_sub(indexed);
        println!(
            "{} {}: {count} events indexed in {:.1} ms, {} read in {:.1} ms",
            recording.format(),
            recording.geometry().map_or_else(|| "unknown geometry".to_owned(), |geometry| geometry.to_string()),
            indexed.as_secs_f64() * 1e3,
            events.len(),
            read.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}
