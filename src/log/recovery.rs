//! Finding the records of a file without its index: by their heads, each of which has a checksum, the file's number and
//! its own place, so that nothing else is taken for one.

use super::record::{self, ENVELOPE, Head, INDEX_LEN, PADDING_LIMIT, SESSION_LIMIT, SESSION_MAGIC, SessionInfo, crc32c, op, u64_at};

/// Largest schema or channel record that is skipped by its length.
const DESCRIPTION_LIMIT: u64 = 16 << 20;

/// Places that are looked at for what a file says of itself, which it says twice: each may claim a MiB to be summed up.
const SESSION_TRIES: usize = 16;

/// What a scan finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Offset and time of each whole record.
    pub(crate) entries: Vec<(u64, u64)>,
    /// Records that are not whole, as far as their numbers tell.
    pub(crate) lost_records: u64,
    /// Bytes that belong to nothing whole.
    pub(crate) lost_bytes: u64,
    /// Where the first of them is.
    pub(crate) first_lost: Option<u64>,
    /// Whether what is lost is the end of the file.
    pub(crate) torn: bool,
    /// Whether the data ends as that of a closed file.
    pub(crate) ended: bool,
}

impl Scan {
    fn lose(&mut self, offset: usize, bytes: usize) {
        self.lost_bytes += bytes as u64;
        self.first_lost.get_or_insert(offset as u64);
    }
}

/// Finds what a file says of itself, and where that ends.
///
/// # Errors
/// The version of a file that is newer than this library.
pub(crate) fn find_session(file: &[u8]) -> Result<Option<(SessionInfo, usize)>, u16> {
    let head = file.get(..SESSION_LIMIT).unwrap_or(file);
    for at in memchr::memmem::find_iter(head, &SESSION_MAGIC).take(SESSION_TRIES) {
        if let Some((info, len)) = SessionInfo::parse(file.get(at..).unwrap_or_default())? {
            return Ok(Some((info, at + len)));
        }
    }
    Ok(None)
}

/// What stands where no record of the log does.
pub(crate) enum Other {
    /// A record of another kind, with so many bytes.
    Known(usize),
    /// The end of the data.
    End,
    /// Room that was asked for in advance.
    Zeros,
    /// A record of another kind that the end of the file cuts off, if its length is right.
    Cut,
    Damaged,
}

/// What stands at `at`. Lengths that the file claims are not believed where a head says otherwise, or, of an index or a
/// directory, where its other fields do, and checksums of what is passed over are not looked at, so that a file cannot
/// make this take longer than it is long.
pub(crate) fn other(file: &[u8], at: usize, session: u64) -> Other {
    let rest = file.get(at..).unwrap_or_default();
    let Some(opcode) = rest.first() else { return Other::End };
    let len = match *opcode {
        0 => return if rest.iter().all(|byte| *byte == 0) { Other::Zeros } else { Other::Damaged },
        op::INDEX | op::DIRECTORY if rest.len() < ENVELOPE + INDEX_LEN => return Other::Cut,
        op::INDEX => record::index_len(rest, session, at as u64),
        op::DIRECTORY => record::directory_len(rest, session, at as u64),
        op::PADDING | op::DATA_END | op::SCHEMA | op::CHANNEL | op::SESSION => {
            let Some(len) = u64_at(rest, 1) else { return Other::Cut };
            let right = match *opcode {
                op::PADDING => len <= PADDING_LIMIT,
                op::DATA_END => len == 4,
                _ => len <= DESCRIPTION_LIMIT,
            };
            right.then(|| ENVELOPE + len as usize)
        }
        _ => None,
    };
    let Some(len) = len else { return Other::Damaged };
    let Some(record) = rest.get(..len) else { return Other::Cut };
    let right = match *opcode {
        op::DATA_END => return Other::End,
        op::PADDING => record[ENVELOPE..].iter().all(|byte| *byte == 0),
        op::SCHEMA | op::CHANNEL | op::SESSION => next_head(file.get(..at + len).unwrap_or_default(), at, session).is_none(),
        _ => true,
    };
    if right { Other::Known(len) } else { Other::Damaged }
}

/// The place of the first head at or after `from`.
pub(crate) fn next_head(file: &[u8], from: usize, session: u64) -> Option<usize> {
    let (pattern, place) = Head::pattern(session);
    let first = from.checked_add(place)?;
    memchr::memmem::find_iter(file.get(first..)?, &pattern).find_map(|found| {
        let at = from + found;
        Head::parse(file.get(at..)?, at as u64, session).map(|_| at)
    })
}

/// Finds the whole records of `file` from `start` on; payloads are not looked at, but for that of the last one.
pub(crate) fn scan(file: &[u8], start: usize, session: u64) -> Scan {
    let mut scan = Scan::default();
    let mut at = start;
    let mut expected = 0;
    let mut last: Option<Head> = None;
    while let Some(rest) = file.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some(head) = Head::parse(rest, at as u64, session) {
            scan.lost_records += head.sequence.saturating_sub(expected);
            if head.end() > file.len() as u64 {
                scan.lost_records += 1;
                scan.lose(at, rest.len());
                scan.torn = true;
                break;
            }
            expected = head.sequence + 1;
            scan.entries.push((at as u64, head.log_time_ns));
            at = head.end() as usize;
            last = Some(head);
            continue;
        }
        match other(file, at, session) {
            Other::Known(len) => at += len,
            Other::End => {
                scan.ended = true;
                break;
            }
            Other::Zeros => break,
            Other::Cut | Other::Damaged => {
                let Some(next) = next_head(file, at + 1, session) else {
                    // What cannot be read any more started as a record.
                    scan.lost_records += u64::from(rest.first() == Some(&op::HEAD));
                    scan.lose(at, rest.len());
                    scan.torn = true;
                    break;
                };
                scan.lose(at, next - at);
                at = next;
            }
        }
    }
    // A system that crashes may have made a file longer before its bytes were there.
    if !scan.ended
        && let Some(head) = last
        && !payload_is_right(file, &head)
    {
        scan.entries.pop();
        scan.lost_records += 1;
        scan.lose(head.offset as usize, (head.end() - head.offset) as usize);
        scan.torn = true;
    }
    scan
}

/// Whether a payload is there and has the checksum that its head says.
pub(crate) fn payload_is_right(file: &[u8], head: &Head) -> bool {
    payload(file, head).is_some_and(|payload| crc32c(payload) == head.payload_crc)
}

/// The payload of a record.
pub(crate) fn payload<'a>(file: &'a [u8], head: &Head) -> Option<&'a [u8]> {
    let start = usize::try_from(head.payload_offset()).ok()?;
    file.get(start..usize::try_from(head.end()).ok()?)
}
