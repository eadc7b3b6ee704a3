//! Segment indexes that outlive their recording object: in the process, and saved beside the recording.
//!
//! A saved index is little-endian: magic, version u32, length of the key u32, key, file size u64, modification time u64 nanoseconds,
//! hash of the head u64, then the problems and the segments, each list after its length u64, and at the end the hash
//! of all before it. The file is a cache: whatever does not fit is ignored, and said.

use std::any::Any;
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::problem::{ProblemCode, Problems};
use crate::scan::{Index, Segment, Segmented};
use crate::source::{Source, create_partial};

const MAGIC: &[u8; 8] = b"evlibidx";
const VERSION: u32 = 1;
/// Bytes of the recording that the hash covers.
const HASHED: usize = 4096;
/// Bytes of a segment in the file.
const SEGMENT: usize = 64;

const CODES: [ProblemCode; 10] = [
    ProblemCode::BeforeFirstTime,
    ProblemCode::TriggerBeforeFirstTime,
    ProblemCode::BeforeFirstRow,
    ProblemCode::BeforeFirstBase,
    ProblemCode::OutOfBounds,
    ProblemCode::LostSync,
    ProblemCode::Truncated,
    ProblemCode::TimeReset,
    ProblemCode::BadLine,
    ProblemCode::Rounded,
];

/// Indexes that the process keeps, and the segments that they may have together.
const KEPT: usize = 256;
const KEPT_SEGMENTS: usize = 1 << 20;
/// Age from which a modification time is trusted: clocks of file systems are as coarse as this.
const SETTLED: Duration = Duration::from_secs(2);

/// An index of the process, and what must be the same for it to fit.
struct Kept {
    path: PathBuf,
    head: Vec<u8>,
    segments: usize,
    index: Arc<dyn Any + Send + Sync>,
}

/// Latest last.
static INDEXES: Mutex<VecDeque<Kept>> = Mutex::new(VecDeque::new());

/// Keeps an index for later openings of this file, if a change of the file would show in its modification time.
pub(crate) fn keep<F: Segmented>(source: &Source, format: &F, index: &Arc<Index<F::State>>) {
    let age = source.modified().and_then(|time| SystemTime::now().duration_since(time).ok());
    let segments = index.segments.len();
    let (Ok(head), Ok(path)) = (head(source, format), source.path().canonicalize()) else { return };
    if age.is_none_or(|age| age < SETTLED) || segments > KEPT_SEGMENTS {
        return;
    }
    let mut indexes = INDEXES.lock().unwrap_or_else(PoisonError::into_inner);
    indexes.retain(|kept| kept.path != path || kept.head != head);
    indexes.push_back(Kept { path, head, segments, index: Arc::clone(index) as _ });
    while indexes.len() > KEPT || indexes.iter().map(|kept| kept.segments).sum::<usize>() > KEPT_SEGMENTS {
        indexes.pop_front();
    }
}

/// The index that the process keeps of this file, in this state.
pub(crate) fn kept<F: Segmented>(source: &Source, format: &F) -> Option<Arc<Index<F::State>>> {
    let (head, path) = (head(source, format).ok()?, source.path().canonicalize().ok()?);
    let indexes = INDEXES.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = indexes.iter().find(|kept| kept.path == path && kept.head == head)?;
    Arc::clone(&kept.index).downcast().ok()
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Where the index of a recording stands.
fn path_of(recording: &Path) -> PathBuf {
    let mut name = recording.as_os_str().to_owned();
    name.push(".evlib-index");
    name.into()
}

/// What must be the same for an index to fit.
fn head<F: Segmented>(source: &Source, format: &F) -> Result<Vec<u8>> {
    let key = format.key();
    let modified = source.modified().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_nanos() as u64);
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((key.len() as u32).to_le_bytes());
    out.extend(key.bytes());
    out.extend(source.stored_len().to_le_bytes());
    out.extend(modified.to_le_bytes());
    out.extend(hash(&source.head(HASHED)?).to_le_bytes());
    Ok(out)
}

/// Writes `index` beside the recording, under its own name only when it is complete.
pub(crate) fn save<F: Segmented>(source: &Source, format: &F, index: &Index<F::State>) -> Result<PathBuf> {
    let path = path_of(source.path());
    let mut out = head(source, format)?;
    let saved = index.problems.iter().filter(|problem| CODES.contains(&problem.code)).count();
    out.extend((saved as u64).to_le_bytes());
    for problem in index.problems.iter() {
        // What is not a problem of the recording itself is not saved with it.
        let Some(code) = CODES.iter().position(|code| *code == problem.code) else { continue };
        for number in [code as u64, problem.count, problem.bytes, problem.first_offset, problem.examples.len() as u64] {
            out.extend(number.to_le_bytes());
        }
        for example in &problem.examples {
            out.extend((example.len() as u64).to_le_bytes());
            out.extend(example.bytes());
        }
    }
    out.extend((index.segments.len() as u64).to_le_bytes());
    for segment in &index.segments {
        let [clock, rest] = F::pack(&segment.state);
        let times = [segment.first_us.cast_unsigned(), segment.last_us.cast_unsigned()];
        for number in [segment.offset, segment.len, segment.events, segment.triggers, times[0], times[1], clock, rest] {
            out.extend(number.to_le_bytes());
        }
    }
    let check = hash(&out);
    out.extend(check.to_le_bytes());
    let (mut file, partial) = create_partial(&path).map_err(|error| Error::io(error, &path))?;
    let mut write = || {
        file.write_all(&out)?;
        std::fs::rename(&partial, &path)
    };
    write().map_err(|error| {
        // The rename did not happen: what is left of the partial file is of no use.
        let _ = std::fs::remove_file(&partial);
        Error::io(error, &path)
    })?;
    Ok(path)
}

/// The index beside the recording: `None` if there is none, an error in words if it does not fit.
pub(crate) fn load<F: Segmented>(source: &Source, format: &F) -> Result<Option<Index<F::State>>, String> {
    let path = path_of(source.path());
    let stale = |what: &str| format!("index `{}` ignored: {what}", path.display());
    let len = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(stale("it is not a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(stale(&error.to_string())),
    };
    // A segment has at least one word of the recording, which of a packed one may take less than a byte of the file.
    if len > (1 << 24) + (SEGMENT as u64).saturating_mul(source.stored_len()) {
        return Err(stale("it is too large"));
    }
    let bytes = std::fs::read(&path).map_err(|error| stale(&error.to_string()))?;
    let head = head(source, format).map_err(|error| error.to_string())?;
    if !bytes.starts_with(&head) {
        return Err(stale("it was made for another state of the recording, or by another version"));
    }
    let (body, check) = bytes.split_last_chunk().ok_or_else(|| stale("it is cut short"))?;
    if hash(body) != u64::from_le_bytes(*check) {
        return Err(stale("it is damaged"));
    }
    let body = body.get(head.len()..).unwrap_or_default();
    parse(format, body, source.len()).map(Some).ok_or_else(|| stale("it makes no sense"))
}

fn parse<F: Segmented>(format: &F, bytes: &[u8], len: u64) -> Option<Index<F::State>> {
    let mut bytes = bytes;
    let number = |bytes: &mut &[u8]| {
        let (number, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(u64::from_le_bytes(*number))
    };
    let mut problems = Problems::default();
    for _ in 0..number(&mut bytes)? {
        let code = *CODES.get(usize::try_from(number(&mut bytes)?).ok()?)?;
        let (count, lost, offset) = (number(&mut bytes)?, number(&mut bytes)?, number(&mut bytes)?);
        let mut examples = Vec::new();
        for _ in 0..number(&mut bytes)? {
            let len = usize::try_from(number(&mut bytes)?).ok()?;
            let (text, rest) = bytes.split_at_checked(len)?;
            examples.push(String::from_utf8_lossy(text).into_owned());
            bytes = rest;
        }
        problems.restore(code, count, lost, offset, examples);
    }
    let count = number(&mut bytes)?;
    if bytes.len() as u64 != count.checked_mul(SEGMENT as u64)? {
        return None;
    }
    let mut segments = Vec::with_capacity(bytes.len() / SEGMENT);
    let mut end = format.payload();
    while !bytes.is_empty() {
        let offset = number(&mut bytes)?;
        let mut segment = Segment {
            offset,
            len: number(&mut bytes)?,
            events: number(&mut bytes)?,
            triggers: number(&mut bytes)?,
            first_us: number(&mut bytes)?.cast_signed(),
            last_us: number(&mut bytes)?.cast_signed(),
            state: format.start(),
        };
        segment.state = format.unpack([number(&mut bytes)?, number(&mut bytes)?])?;
        let most = segment.len.saturating_mul(format.events_per_byte());
        if segment.offset < end || segment.events > most || segment.triggers > segment.len || segment.first_us > segment.last_us {
            return None;
        }
        end = segment.offset.checked_add(segment.len).filter(|end| *end <= len)?;
        segments.push(segment);
    }
    Some(Index { segments, problems })
}
