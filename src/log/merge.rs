//! Several channels as one, by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::reader::{Channel, Record};
use crate::error::Result;

/// Records of several channels: always the one with the earliest time among the next of each, and of equal times the
/// one whose channel was named first. The order within a channel is kept, also where its clock went back.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-merge-{}", std::process::id()));
/// use evlib::log::{Log, Merge, Stamp, Verify, WriterOptions};
/// let log = Log::new(&dir);
/// for (name, times) in [("a", [1, 4]), ("b", [2, 3])] {
///     let writer = log.writer(name, &WriterOptions::new("bytes", 1))?;
///     times.into_iter().try_for_each(|time| writer.write(&[b"x"], Stamp::at(time)))?;
///     writer.close()?;
/// }
/// let channels = ["a", "b"].map(|name| log.channel(name, Verify::Head));
/// let merged = Merge::new(channels.into_iter().collect::<evlib::Result<_>>()?);
/// let order: Vec<usize> = merged.map(|item| Ok(item?.0)).collect::<evlib::Result<_>>()?;
/// assert_eq!(order, [0, 1, 1, 0]);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Merge {
    channels: Vec<Arc<Channel>>,
    /// Time, channel and number of the next record of each channel.
    next: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl Merge {
    /// Merges these channels.
    #[must_use]
    pub fn new(channels: Vec<Channel>) -> Self {
        Self::of(channels.into_iter().map(Arc::new).collect())
    }

    pub(crate) fn of(channels: Vec<Arc<Channel>>) -> Self {
        let first = channels.iter().enumerate().filter_map(|(number, channel)| Some(Reverse((channel.time(0)?, number, 0))));
        Self { next: first.collect(), channels }
    }

    /// Channel and number of the next record.
    pub(crate) fn next_place(&mut self) -> Option<(usize, u64)> {
        let Reverse((_, number, at)) = self.next.pop()?;
        if let Some(time) = self.channels.get(number)?.time(at + 1) {
            self.next.push(Reverse((time, number, at + 1)));
        }
        Some((number, at))
    }
}

impl Iterator for Merge {
    /// The number of the channel, and its record.
    type Item = Result<(usize, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, at) = self.next_place()?;
        self.channels.get(number).map(|channel| channel.get(at).map(|record| (number, record)))
    }
}
