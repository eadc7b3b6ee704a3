//! The observation log: an append-only record of what many sensors see, and views of it.
//!
//! A [`Log`] is a folder. A channel is one stream in it, written by one [`Writer`] at a time; each writing session makes
//! a file of its own, `<channel>.<NNNNNN>.mcap`, which is never changed afterwards. A closed file is a valid MCAP file.
//! Payloads are aligned in it, so that a [`Channel`] maps the files and hands out [`Payload`]s that are views.
//!
//! What reached a file is found again whatever became of its writer: every record has a head with a checksum of itself
//! and of the payload. See `docs/log-format.md` for the format.

mod events;
mod foreign;
mod merge;
mod name;
mod reader;
mod record;
mod recovery;
mod repair;
mod sys;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use merge::Merge;
pub use reader::{Channel, CodecInfo, LogFile, Payload, Record, Records, Recovery, Verify};
pub use repair::{Repaired, repair};
pub use tail::Tail;
pub use writer::{Counters, Flush, Policy, Stamp, Writer, WriterOptions};

pub(crate) use events::open as open_events;
#[cfg(feature = "python")]
pub(crate) use sys::Memory;

use crate::error::{Error, Result};
use reader::Session;

const BLOG: &str = "blog";

/// Whether a file starts as one of a log does.
pub(crate) fn is_log(head: &[u8]) -> bool {
    let profile = head.get(record::MAGIC.len() + record::ENVELOPE..).and_then(|content| record::Fields(content).text());
    head.starts_with(&record::MAGIC) && profile.is_some_and(|profile| profile == record::PROFILE)
}

/// Numbers of the files of each channel, by the channel's part of their names, in order.
fn sessions(folder: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(|error| Error::io(error, folder))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| Error::io(error, folder))?.file_name();
        if let Some((encoded, number)) = name.to_str().and_then(name::split) {
            found.entry(encoded.to_owned()).or_default().push(number);
        }
    }
    for numbers in found.values_mut() {
        numbers.sort_unstable();
    }
    Ok(found)
}

/// A folder of channels, or a single file of a log, MCAP or `.blog`, which can be read only.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-log-{}", std::process::id()));
/// use evlib::log::{Log, Stamp, Verify, WriterOptions};
/// let log = Log::new(&dir);
/// log.writer("lidar/front", &WriterOptions::new("bytes", 1))?.write(&[b"scan"], Stamp::now())?;
/// assert_eq!(log.channels()?, ["lidar/front"]);
/// for record in &log.channel("lidar/front", Verify::Head)? {
///     assert_eq!(record?.payload.bytes(), b"scan");
/// }
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The log in this folder, which is made when something is written.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf() }
    }

    /// The folder or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the channels, sorted; those of a single file in its own order.
    ///
    /// # Errors
    /// `Io` if the folder cannot be read.
    pub fn channels(&self) -> Result<Vec<String>> {
        if self.path.is_file() {
            return Ok(self.single(Verify::Head)?.into_iter().map(|channel| channel.name().to_owned()).collect());
        }
        let mut names = BTreeSet::new();
        for (encoded, numbers) in sessions(&self.path)? {
            if let Some(name) = name::decode(&encoded) {
                names.insert(name);
            } else if name::is_hashed(&encoded) {
                let files = numbers.iter().map(|number| self.path.join(name::file(&encoded, *number)));
                let name = files
                    .map(|path| Session::open(&path, Verify::Head))
                    .find_map(|session| session.ok().map(|session| session.info().channel.clone()).filter(|name| !name.is_empty()));
                names.extend(name);
            }
        }
        if let Ok(entries) = fs::read_dir(&self.path) {
            let files = entries.flatten().map(|entry| PathBuf::from(entry.file_name()));
            let blogs = files.filter(|file| file.extension().is_some_and(|extension| extension == BLOG));
            names.extend(blogs.filter_map(|file| file.file_stem()?.to_str().map(str::to_owned)));
        }
        Ok(names.into_iter().collect())
    }

    /// Starts writing a channel, in a file of its own.
    ///
    /// # Errors
    /// `InvalidArgument` if the channel has a writer already, or for options that cannot be; `Io`.
    pub fn writer(&self, channel: &str, options: &WriterOptions) -> Result<Writer> {
        if self.path.is_file() {
            return Err(Error::invalid("a log that is written is a folder").but_found("a file").with_path(&self.path));
        }
        Writer::create(&self.path, channel, options)
    }

    /// Opens a channel as it is now.
    ///
    /// # Errors
    /// `Io`, of the kind "not found" if there is no such channel; `Unsupported` for files of a newer version.
    pub fn channel(&self, channel: &str, verify: Verify) -> Result<Channel> {
        if self.path.is_file() {
            let mut all = self.single(verify)?;
            let at = all.iter().position(|found| found.name() == channel);
            return at.map(|at| all.swap_remove(at)).ok_or_else(|| self.no_channel(channel, &self.path));
        }
        let encoded = name::encode(channel)?;
        let numbers = sessions(&self.path)?.remove(&encoded).unwrap_or_default();
        if numbers.is_empty() {
            let blog = self.path.join(format!("{channel}.{BLOG}"));
            let plain = Path::new(channel).components().count() == 1;
            if plain && blog.parent() == Some(&self.path) && blog.is_file() {
                return Ok(Channel::of_topics(channel.to_owned(), vec![foreign::open_blog(&blog)?]));
            }
            return Err(self.no_channel(channel, &self.path.join(name::file(&encoded, 1))));
        }
        let mut files = Vec::with_capacity(numbers.len());
        for number in numbers {
            let session = Session::open(&self.path.join(name::file(&encoded, number)), verify)?;
            let stored = &session.info().channel;
            if !stored.is_empty() && stored != channel {
                return Err(Error::format("a file of another channel")
                    .expecting(format!("`{channel}`"))
                    .but_found(format!("`{stored}`"))
                    .with_path(session.path())
                    .hint("was it renamed? open the file itself"));
            }
            files.push(session);
        }
        Ok(Channel::of_sessions(channel.to_owned(), files))
    }

    /// Follows a channel, which need not be there yet: its records from the first on, or only those to come.
    ///
    /// # Errors
    /// `Io`.
    pub fn tail(&self, channel: &str, from_start: bool) -> Result<Tail> {
        Tail::new(&self.path, channel, from_start)
    }

    /// The channels of a single file.
    fn single(&self, verify: Verify) -> Result<Vec<Channel>> {
        if self.path.extension().is_some_and(|extension| extension == BLOG) {
            let name = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(vec![Channel::of_topics(name, vec![foreign::open_blog(&self.path)?])]);
        }
        let session = Session::open(&self.path, verify)?;
        if session.is_log() {
            return Ok(vec![Channel::of_sessions(session.info().channel.clone(), vec![session])]);
        }
        // Several writers may have used one topic, each with an encoding of its own.
        let mut named: Vec<(String, Vec<foreign::Topic>)> = Vec::new();
        let mut places = HashMap::new();
        for (name, topic) in foreign::open_mcap(&self.path)? {
            let place = *places.entry(name.clone()).or_insert(named.len());
            match named.get_mut(place) {
                Some((_, topics)) => topics.push(topic),
                None => named.push((name, vec![topic])),
            }
        }
        Ok(named.into_iter().map(|(name, topics)| Channel::of_topics(name, topics)).collect())
    }

    fn no_channel(&self, channel: &str, path: &Path) -> Error {
        let error = Error::io(io::ErrorKind::NotFound.into(), path).expecting(format!("channel `{channel}`"));
        match self.channels() {
            Ok(names) if !names.is_empty() => {
                let names: Vec<_> = names.iter().take(24).map(|name| format!("`{name}`")).collect();
                error.but_found(names.join(", "))
            }
            _ => error.but_found("no channels"),
        }
    }
}
