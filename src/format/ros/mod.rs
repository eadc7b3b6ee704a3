//! ROS bags without ROS: bags of ROS 1, ROS 2 bags in `SQLite`, and MCAP, with events in any of the usual messages.

use std::path::Path;
use std::sync::Arc;

use super::{Confidence, Format, Identity, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::prophesee::word::Limits;
use crate::mcap;
use crate::problem::Problems;
use crate::reader::{Ambiguous, Reader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::Geometry;
use crate::source::Source;

mod bag;
mod container;
mod load;
mod message;
mod packet;
mod reader;
mod seek;
mod sqlite;
#[cfg(test)]
mod tests;
mod walk;

use container::{Container, Topic};
use load::Taking;
use message::{Coding, Encoding, Head, Kind, Serial};
use reader::TopicReader;

/// Topics that are named in an error.
const NAMED: usize = 24;
/// Blocks that are looked through for the first message of a topic.
const LOOKED_THROUGH: usize = 1 << 12;
/// Coordinates of all encodings fit 15 bits.
const PIXELS: u16 = 1 << 15;

/// The format that the first bytes name.
pub(crate) fn format_of(head: &[u8]) -> Option<Format> {
    if head.starts_with(bag::ANY_MAGIC) {
        Some(Format::Bag)
    } else if head.starts_with(&mcap::MAGIC) {
        Some(Format::Mcap)
    } else if head.starts_with(sqlite::MAGIC) {
        Some(Format::Db3)
    } else {
        None
    }
}

fn ends_in(path: &Path, endings: [&str; 2]) -> bool {
    path.extension().is_some_and(|extension| endings.iter().any(|ending| extension.eq_ignore_ascii_case(ending)))
}

/// The bag in a folder that ROS 2 wrote; `None` if there is none.
pub(crate) fn in_folder(folder: &Path) -> Result<Option<std::path::PathBuf>> {
    if !folder.join("metadata.yaml").is_file() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(error, folder))? {
        let path = entry.map_err(|error| Error::io(error, folder))?.path();
        // ROS 2 compresses whole files too.
        let plain = if ends_in(&path, ["zstd", "zst"]) { path.with_extension("") } else { path.clone() };
        if ends_in(&plain, ["db3", "mcap"]) && path.is_file() {
            found.push(path);
        }
    }
    if found.len() > 1 {
        found.sort();
        let names: Vec<_> =
            found.iter().take(NAMED).filter_map(|path| Some(format!("`{}`", path.file_name()?.to_string_lossy()))).collect();
        return Err(Error::invalid("a ROS 2 bag of several files").expecting("one of them, or a list of them").but_found(names.join(", ")));
    }
    Ok(found.pop())
}

/// The first message of a topic that carries events.
fn first_head(container: &dyn Container, topic: &Topic, serial: Serial) -> Result<Option<Head>> {
    let (blocks, _) = container.blocks(topic)?;
    for block in blocks.iter().take(LOOKED_THROUGH) {
        let mut found = None;
        container.visit(block, topic, false, &mut Problems::default(), &mut |message| {
            found = Head::parse(topic.kind, serial, message.data);
            found.is_none()
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// A topic whose messages carry events or triggers.
struct Candidate {
    topic: Topic,
    serial: Serial,
    head: Option<Head>,
}

impl Candidate {
    /// Its encoding; that of the type where it has no messages.
    fn encoding(&self) -> Option<Encoding> {
        match self.head.as_ref().map(|head| &head.coding) {
            Some(Coding::Known(encoding)) => Some(*encoding),
            Some(Coding::Unknown(_)) => None,
            None if self.topic.kind == Kind::Packet => Some(Encoding::Mono),
            None => Some(Encoding::Packed),
        }
    }

    fn kind(&self) -> StreamKind {
        match self.encoding() {
            Some(Encoding::Trigger) => StreamKind::Triggers,
            Some(_) => StreamKind::Events,
            None => StreamKind::Other,
        }
    }

    fn detail(&self) -> String {
        let coding = match self.head.as_ref().map(|head| &head.coding) {
            Some(Coding::Known(encoding)) => encoding.name().to_owned(),
            Some(Coding::Unknown(name)) => format!("encoding `{}`, which is not read", name.escape_debug()),
            None => "no messages".to_owned(),
        };
        describe(&self.topic, &coding)
    }

    /// The part of the topic's name that it shares with those of the same camera.
    fn camera(&self) -> &str {
        self.topic.name.rsplit_once('/').map_or("", |(camera, _)| camera)
    }
}

fn describe(topic: &Topic, coding: &str) -> String {
    let messages = topic.messages.map_or(String::new(), |messages| format!(", {messages} messages"));
    let coding = if coding.is_empty() { String::new() } else { format!(", {coding}") };
    format!("{}{coding}{messages}", topic.type_name)
}

/// Opens a bag.
pub(crate) fn open(source: Source, format: Format, options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    let container: Arc<dyn Container> = match format {
        Format::Bag => Arc::new(container::bag::Bag::open(source)?),
        Format::Mcap => Arc::new(container::mcap::Mcap::open(source)?),
        _ => Arc::new(container::db3::Db3::open(source)?),
    };
    let mut candidates = Vec::new();
    let mut others = Vec::new();
    for topic in container.topics() {
        let kind = match (topic.kind, topic.serial) {
            (Kind::Array | Kind::Packet, Some(serial)) => {
                candidates.push(Candidate { topic: topic.clone(), serial, head: first_head(&*container, topic, serial)? });
                continue;
            }
            (Kind::Image, _) => StreamKind::Frames,
            (Kind::Imu, _) => StreamKind::Imu,
            _ => StreamKind::Other,
        };
        let coding = if topic.serial.is_some() { "" } else { "a serialisation that is not read" };
        others.push(Stream::new(&topic.name, kind, describe(&Topic { messages: None, ..topic.clone() }, coding), topic.messages));
    }
    let mut streams: Vec<Stream> = candidates.iter().map(|one| Stream::new(&one.topic.name, one.kind(), one.detail(), None)).collect();
    streams.append(&mut others);
    let chosen = choose(&candidates, &streams, options)?;
    let identity = Identity { format, confidence: Confidence::Certain, reasons: vec![reason(format, &candidates)] };
    let mut metadata = container.metadata();
    metadata.push(("compression".to_owned(), container.compression()));
    let Some(chosen) = chosen else {
        let names = candidates.iter().filter(|one| one.kind() == StreamKind::Events).map(|one| one.topic.name.clone()).collect();
        let reader: Arc<dyn Reader> = Arc::new(Ambiguous::new(names));
        return Ok(Opened { identity, geometry: options.geometry, metadata, streams, reader });
    };
    let own = chosen.head.as_ref().and_then(|head| Geometry::new(head.width, head.height).ok());
    let geometry = options.geometry.or(own);
    let time = options.time_source.unwrap_or_default();
    metadata.push(("topic".to_owned(), chosen.topic.name.clone()));
    metadata.push(("type".to_owned(), chosen.topic.type_name.clone()));
    metadata.push(("encoding".to_owned(), chosen.encoding().map_or("", Encoding::name).to_owned()));
    metadata.push(("serialization".to_owned(), if chosen.serial == Serial::Ros1 { "ros1" } else { "cdr" }.to_owned()));
    metadata.push(("time_source".to_owned(), time.name().to_owned()));
    let reader = |one: &Candidate, geometry: Option<Geometry>, triggers: Vec<TopicReader>| {
        let taking = Taking {
            topic: one.topic.clone(),
            kind: one.topic.kind,
            serial: one.serial,
            encoding: one.encoding().unwrap_or(Encoding::Mono),
            limits: Limits::new(geometry, PIXELS),
            time,
        };
        TopicReader::new(Arc::clone(&container), taking, triggers)
    };
    let triggers = triggers_of(chosen, &candidates).into_iter().map(|one| reader(one, geometry, Vec::new())).collect();
    let reader: Arc<dyn Reader> = Arc::new(reader(chosen, geometry, triggers));
    Ok(Opened { identity, geometry, metadata, streams, reader })
}

fn reason(format: Format, candidates: &[Candidate]) -> String {
    let types: Vec<_> = candidates.iter().take(NAMED).map(|one| format!("`{}` on `{}`", one.topic.type_name, one.topic.name)).collect();
    let signature = match format {
        Format::Bag => "signature of a ROS 1 bag",
        Format::Mcap => "MCAP signature",
        _ => "SQLite signature and the tables of a ROS 2 bag",
    };
    format!("{signature}; {}", types.join(", "))
}

/// The topic to read; `None` where there are several and none is named.
fn choose<'a>(candidates: &'a [Candidate], streams: &[Stream], options: &OpenOptions) -> Result<Option<&'a Candidate>> {
    let listed = |names: Vec<String>| if names.is_empty() { "no topics".to_owned() } else { names.join(", ") };
    if let Some(name) = &options.stream {
        let readable = |one: &&Candidate| one.kind() != StreamKind::Other;
        let Some(chosen) = candidates.iter().filter(readable).find(|one| one.topic.name == *name) else {
            let names = candidates.iter().filter(readable).take(NAMED).map(|one| format!("`{}`", one.topic.name)).collect();
            return Err(Error::invalid("no such stream of events").expecting(listed(names)).but_found(format!("`{name}`")));
        };
        return Ok(Some(chosen));
    }
    let events: Vec<_> = candidates.iter().filter(|one| one.kind() == StreamKind::Events).collect();
    match events.as_slice() {
        [only] => Ok(Some(only)),
        [] => {
            // A recording of triggers alone has no events.
            let triggers: Vec<_> = candidates.iter().filter(|one| one.kind() == StreamKind::Triggers).collect();
            if let [only] = triggers.as_slice() {
                return Ok(Some(only));
            }
            let names = streams.iter().take(NAMED).map(|stream| format!("`{}` ({})", stream.name, stream.detail)).collect();
            let kind = if candidates.is_empty() { ErrorKind::Format } else { ErrorKind::Unsupported };
            Err(Error::new(kind, "a bag without a topic of events that is read")
                .expecting("messages of `dvs_msgs/EventArray`, `prophesee_event_msgs/EventArray`, `event_camera_msgs/EventPacket` or `event_array_msgs/EventArray`")
                .but_found(listed(names)))
        }
        _ => Ok(None),
    }
}

/// The topics whose triggers belong to the chosen events: all of them if there is but one topic of events, else those of
/// the same camera.
fn triggers_of<'a>(chosen: &Candidate, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let several = candidates.iter().filter(|one| one.kind() == StreamKind::Events).count() > 1;
    let wanted = |one: &&Candidate| {
        one.kind() == StreamKind::Triggers && one.topic.name != chosen.topic.name && (!several || one.camera() == chosen.camera())
    };
    candidates.iter().filter(wanted).collect()
}
