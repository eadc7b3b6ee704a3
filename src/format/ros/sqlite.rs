//! Tables of `SQLite` databases, read by position: <https://www.sqlite.org/fileformat2.html>.
//!
//! Only what a recording needs: the schema, and the rows of a table in the order of their row numbers. Pages that are
//! missing or damaged cost the rows that they hold, and no others. Pages of transactions that are complete in a
//! write-ahead log beside the file stand in for those in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::source::{Buffer, Source};

/// At the start of a file.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of the database's header, in front of the first page's own.
const HEADER: usize = 100;
/// Deepest tree: every interior page below the root has at least two children.
const DEPTH: usize = 40;
/// Bytes that overflow pages are read in at a time.
const WINDOW: usize = 256 << 10;

/// Types of pages.
const INTERIOR: u8 = 0x05;
const LEAF: u8 = 0x0D;

/// A database file.
#[derive(Debug)]
pub(crate) struct Database {
    source: Arc<Source>,
    log: Option<Log>,
    page: usize,
    /// Bytes of a page that are used.
    usable: usize,
}

/// A write-ahead log: the newest version of each page in it.
#[derive(Debug)]
struct Log {
    source: Source,
    /// Page to offset in the log.
    pages: HashMap<u32, u64>,
}

impl Log {
    /// Bytes of the header of the log, and of the head of a frame.
    const HEADER: usize = 32;
    const FRAME: usize = 24;

    /// The checksum over 32-bit words, in pairs.
    fn sum(sum: (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
        let word = |bytes: [u8; 4]| if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        bytes.as_chunks::<8>().0.iter().fold(sum, |(a, b), pair| {
            let a = a.wrapping_add(word([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(b);
            (a, b.wrapping_add(word([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(a))
        })
    }

    /// The log beside a database, if there is one with complete transactions.
    fn open(database: &Source, page: usize) -> Result<Option<Self>> {
        let mut name = database.path().as_os_str().to_owned();
        name.push("-wal");
        let path = std::path::PathBuf::from(name);
        if !std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > Self::HEADER as u64) {
            return Ok(None);
        }
        let source = Source::open(&path)?;
        let mut head = vec![0; Self::HEADER];
        source.read_exact_at(&mut head, 0)?;
        let magic = u32_at(&head, 0).unwrap_or(0);
        let big = magic & 1 == 1;
        let mut sum = Self::sum((0, 0), head.get(..24).unwrap_or_default(), big);
        if magic >> 1 != 0x377f_0682 >> 1
            || u32_at(&head, 8) != u32::try_from(page).ok()
            || u32_at(&head, 24).zip(u32_at(&head, 28)) != Some(sum)
        {
            return Ok(None);
        }
        let salt = head.get(16..24).unwrap_or_default().to_vec();
        let (mut pages, mut open) = (HashMap::new(), Vec::new());
        let mut frame = vec![0; Self::FRAME + page];
        let mut at = Self::HEADER as u64;
        while at + frame.len() as u64 <= source.len() {
            source.read_exact_at(&mut frame, at)?;
            let (head, content) = frame.split_at(Self::FRAME);
            sum = Self::sum(Self::sum(sum, head.get(..8).unwrap_or_default(), big), content, big);
            let (Some(number), Some(commit)) = (u32_at(head, 0), u32_at(head, 4)) else { break };
            if head.get(8..16) != Some(salt.as_slice()) || u32_at(head, 16).zip(u32_at(head, 20)) != Some(sum) {
                break;
            }
            open.push((number, at + Self::FRAME as u64));
            if commit > 0 {
                pages.extend(open.drain(..));
            }
            at += frame.len() as u64;
        }
        Ok((!pages.is_empty()).then_some(Self { source, pages }))
    }
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    /// Text, a blob, or a float, which no table of a recording has.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    pub(crate) fn integer(self) -> Option<i64> {
        match self {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn text(self) -> Option<String> {
        match self {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// A row: its number, and its columns as far as they stand on the leaf page.
pub(crate) struct Row<'a> {
    pub(crate) id: i64,
    /// File offset of its cell.
    pub(crate) offset: u64,
    /// The part of the record on the leaf page.
    local: &'a [u8],
    /// Bytes of the whole record.
    len: usize,
    /// First page of the rest; 0 for none.
    overflow: u32,
}

/// A leaf page of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) page: u32,
    /// No row of it has a higher number.
    pub(crate) last: i64,
}

/// A table or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `table` or `index`.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The table that it belongs to.
    pub(crate) table: String,
    pub(crate) root: u32,
    /// Names of its columns.
    pub(crate) columns: Vec<String>,
}

impl Entry {
    /// Number of a column.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.eq_ignore_ascii_case(name))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A number of one to nine bytes, seven bits each but for the last; also its length.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some((value << 8 | u64::from(*byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// Bytes that a value of this serial type takes.
fn stored(serial: u64) -> Option<usize> {
    match serial {
        0 | 8 | 9 => Some(0),
        1..=4 => Some(serial as usize),
        5 => Some(6),
        6 | 7 => Some(8),
        10 | 11 => None,
        other => usize::try_from((other - 12) / 2).ok(),
    }
}

fn value(serial: u64, bytes: &[u8]) -> Value<'_> {
    match serial {
        0 => Value::Null,
        1..=6 => {
            let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
            Value::Integer(bytes.iter().fold(if negative { -1 } else { 0 }, |value, byte| value << 8 | i64::from(*byte)))
        }
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        _ => Value::Bytes(bytes),
    }
}

/// Where column `wanted` of a record is: its serial type and the bytes from the start of the record.
fn place(record: &[u8], wanted: usize) -> Option<(u64, usize, usize)> {
    let (header, mut at) = varint(record)?;
    let header = usize::try_from(header).ok()?;
    let types = record.get(..header)?;
    let mut start = header;
    for column in 0.. {
        let (serial, len) = varint(types.get(at..)?)?;
        at += len;
        let size = stored(serial)?;
        if column == wanted {
            return Some((serial, start, size));
        }
        start = start.checked_add(size)?;
    }
    None
}

impl Row<'_> {
    /// Bytes of its record, overflow pages included.
    pub(crate) fn size(&self) -> usize {
        self.len
    }

    /// A column that stands on the leaf page as a whole.
    pub(crate) fn get(&self, column: usize) -> Option<Value<'_>> {
        let (serial, start, size) = place(self.local, column)?;
        Some(value(serial, self.local.get(start..start + size)?))
    }
}

/// The names of the columns in a `CREATE TABLE` statement.
fn columns(sql: &str) -> Vec<String> {
    let Some(start) = sql.find('(') else { return Vec::new() };
    let body = sql.get(start + 1..).unwrap_or_default();
    let (mut depth, mut from, mut names) = (0_usize, 0, Vec::new());
    for (at, letter) in body.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                let definition = body.get(from..at).unwrap_or_default();
                let name = definition.split_whitespace().next().unwrap_or_default();
                names.push(name.trim_matches(['"', '`', '[', ']', '\'']).to_owned());
                from = at + 1;
                if letter == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Pages read in stretches: neighbours are needed one after the other.
#[derive(Default)]
pub(crate) struct Pages {
    buffer: Buffer,
    /// File offset of the buffer, and bytes in it.
    start: u64,
    len: usize,
}

/// The leaf pages that rows were found on last, by number. There is no page 0.
#[derive(Default)]
pub(crate) struct Leaves(Vec<(u32, Vec<u8>)>);

impl Leaves {
    const KEPT: usize = 16;
}

impl Database {
    pub(crate) fn open(source: Arc<Source>) -> Result<Self> {
        let head = source.head(HEADER)?;
        let page = match u16_at(&head, 16) {
            Some(1) => 1 << 16,
            Some(size) => usize::from(size),
            None => 0,
        };
        let reserved = head.get(20).copied().map_or(0, usize::from);
        let usable = page.saturating_sub(reserved);
        if !page.is_power_of_two() || page < 512 || usable < 480 {
            return Err(Error::format("an SQLite database whose header makes no sense")
                .expecting("pages of 512 to 65536 bytes")
                .but_found(format!("{page} bytes, {reserved} of them reserved"))
                .at(16));
        }
        let log = Log::open(&source, page)?;
        Ok(Self { source, log, page, usable })
    }

    /// Whether pages of a write-ahead log are read.
    pub(crate) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// The file that has a page, and its offset there; `None` for one that is nowhere.
    fn find(&self, page: u32) -> Option<(&Source, u64)> {
        if let Some(log) = &self.log
            && let Some(offset) = log.pages.get(&page)
        {
            return Some((&log.source, *offset));
        }
        let offset = self.offset(page);
        (page > 0 && offset + self.page as u64 <= self.source.len()).then_some((&*self.source, offset))
    }

    /// File offset of a page.
    pub(crate) fn offset(&self, page: u32) -> u64 {
        u64::from(page).saturating_sub(1) * self.page as u64
    }

    /// A page by itself; `None` for one that the file does not have.
    fn read(&self, page: u32, buffer: &mut Vec<u8>) -> Result<Option<()>> {
        let Some((source, offset)) = self.find(page) else { return Ok(None) };
        buffer.resize(self.page, 0);
        source.read_exact_at(buffer, offset)?;
        Ok(Some(()))
    }

    /// The tables and indexes.
    pub(crate) fn schema(&self) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut pages = Pages::default();
        for leaf in self.leaves(1)?.0 {
            self.rows(leaf.page, |row| {
                let mut record = Vec::new();
                if self.record(&row, 0, usize::MAX, &mut pages, &mut record)? {
                    found.extend(Self::entry(&record));
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// A row of the schema: type, name, table, root page, statement.
    fn entry(record: &[u8]) -> Option<Entry> {
        let column = |at: usize| {
            let (serial, start, size) = place(record, at)?;
            Some(value(serial, record.get(start..start + size)?))
        };
        Some(Entry {
            kind: column(0)?.text()?,
            name: column(1)?.text()?,
            table: column(2)?.text()?,
            root: u32::try_from(column(3)?.integer()?).ok()?,
            columns: columns(&column(4)?.text()?),
        })
    }

    /// The leaf pages of the tree with this root, in order; also the pages that should be in it and are not. Leaves all
    /// have one depth: only the first is looked at.
    pub(crate) fn leaves(&self, root: u32) -> Result<(Vec<Leaf>, Vec<u32>)> {
        let (mut leaves, mut missing, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        // Pages still to be looked at, the next one last.
        let mut rest = vec![(root, i64::MAX, 0)];
        let mut leaf_depth = None;
        let mut buffer = Vec::new();
        while let Some((page, last, depth)) = rest.pop() {
            if !seen.insert(page) || depth >= DEPTH {
                missing.push(page);
                continue;
            }
            if leaf_depth == Some(depth) {
                leaves.push(Leaf { page, last });
                continue;
            }
            let there = self.read(page, &mut buffer)?.is_some();
            let bytes = if there { buffer.get(if page == 1 { HEADER } else { 0 }..).unwrap_or_default() } else { &[] };
            match bytes.first() {
                Some(&LEAF) => {
                    leaf_depth = Some(depth);
                    leaves.push(Leaf { page, last });
                }
                Some(&INTERIOR) => {
                    let cells = u16_at(bytes, 3).unwrap_or(0).into();
                    let children: Vec<_> = (0..cells)
                        .filter_map(|cell| {
                            let at = u16_at(bytes, 12 + 2 * cell)?.into();
                            let child = u32_at(&buffer, at)?;
                            Some((child, varint(buffer.get(at + 4..)?)?.0.cast_signed(), depth + 1))
                        })
                        .collect();
                    rest.extend(u32_at(bytes, 8).map(|right| (right, last, depth + 1)));
                    rest.extend(children.into_iter().rev());
                }
                _ => missing.push(page),
            }
        }
        Ok((leaves, missing))
    }

    /// Bytes of a record that stand on the leaf page.
    fn local(&self, len: usize) -> usize {
        let most = self.usable - 35;
        if len <= most {
            return len;
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let fitting = least + (len - least) % (self.usable - 4);
        if fitting <= most { fitting } else { least }
    }

    /// The rows of the leaf page that `buffer` holds, in order, `None` for cells that make no sense; `None` if it is no
    /// such page.
    fn cells<'a>(&self, page: u32, buffer: &'a [u8]) -> Option<impl Iterator<Item = Option<Row<'a>>>> {
        let head = buffer.get(if page == 1 { HEADER } else { 0 }..)?;
        if head.first() != Some(&LEAF) {
            return None;
        }
        let cells = usize::from(u16_at(head, 3)?);
        let start = self.offset(page);
        Some((0..cells).map(move |cell| {
            let at = usize::from(u16_at(head, 8 + 2 * cell)?);
            let bytes = buffer.get(at..self.usable)?;
            let (len, first) = varint(bytes)?;
            let (id, second) = varint(bytes.get(first..)?)?;
            let len = usize::try_from(len).ok().filter(|len| *len as u64 <= self.source.len())?;
            let content = bytes.get(first + second..)?;
            let local = self.local(len);
            let overflow = if local < len { u32_at(content, local)? } else { 0 };
            Some(Row { id: id.cast_signed(), offset: start + at as u64, local: content.get(..local)?, len, overflow })
        }))
    }

    /// Gives the rows of a leaf page in order. False where the page is not there or its cells make no sense; the
    /// others are given.
    pub(crate) fn rows(&self, page: u32, mut each: impl FnMut(Row<'_>) -> Result<()>) -> Result<bool> {
        let mut buffer = Vec::new();
        let Some(()) = self.read(page, &mut buffer)? else { return Ok(false) };
        let Some(cells) = self.cells(page, &buffer) else { return Ok(false) };
        let mut whole = true;
        for row in cells {
            match row {
                Some(row) => each(row)?,
                None => whole = false,
            }
        }
        Ok(whole)
    }

    /// A row of a leaf page by its number; `None` where it is not there.
    pub(crate) fn row<'a>(&self, page: u32, id: i64, leaves: &'a mut Leaves) -> Result<Option<Row<'a>>> {
        let kept = leaves.0.iter().position(|(kept, _)| *kept == page);
        let (at, there) = match kept {
            Some(at) => (at, true),
            None if leaves.0.len() < Leaves::KEPT => {
                leaves.0.push((0, Vec::new()));
                (leaves.0.len() - 1, false)
            }
            None => (0, false),
        };
        // The page used last stands last.
        leaves.0.get_mut(at..).unwrap_or_default().rotate_left(1);
        let Some((number, buffer)) = leaves.0.last_mut() else { return Ok(None) };
        if !there {
            *number = 0;
            if self.read(page, buffer)?.is_none() {
                return Ok(None);
            }
            *number = page;
        }
        Ok(self.cells(page, buffer).and_then(|cells| cells.flatten().find(|row| row.id == id)))
    }

    /// Appends the value of a column that may reach over overflow pages; false where it is not there as a whole.
    pub(crate) fn blob(&self, row: &Row<'_>, column: usize, pages: &mut Pages, out: &mut Vec<u8>) -> Result<bool> {
        match place(row.local, column) {
            Some((_, start, size)) => self.record(row, start, size, pages, out),
            None => Ok(false),
        }
    }

    /// Appends the bytes `start..start + size` of a record, or all from `start` on; false where they are not all there.
    fn record(&self, row: &Row<'_>, start: usize, size: usize, pages: &mut Pages, out: &mut Vec<u8>) -> Result<bool> {
        let end = start.saturating_add(size).min(row.len);
        if size != usize::MAX && end - start.min(end) != size {
            return Ok(false);
        }
        let on_page = row.local.get(start.min(row.local.len())..end.min(row.local.len())).unwrap_or_default();
        out.extend_from_slice(on_page);
        let mut next = row.overflow;
        let mut at = row.local.len();
        let payload = self.usable - 4;
        while at < end {
            // The pages up to the end of the record, if they are neighbours, which they nearly always are.
            let wanted = (end - at).div_ceil(payload) * self.page;
            let Some(bytes) = self.window(pages, next, wanted)? else { return Ok(false) };
            for page in bytes.chunks_exact(self.page) {
                let (Some(after), Some(content)) = (u32_at(page, 0), page.get(4..self.usable)) else { return Ok(false) };
                let here = content.get(start.saturating_sub(at).min(payload)..(end - at).min(payload)).unwrap_or_default();
                out.extend_from_slice(here);
                at += payload;
                let neighbour = next.wrapping_add(1);
                next = after;
                if at >= end || after != neighbour {
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Whole pages from `page` on, up to `wanted` bytes, at least one; `None` for a page that is nowhere.
    fn window<'a>(&self, pages: &'a mut Pages, page: u32, wanted: usize) -> Result<Option<&'a [u8]>> {
        let Some((source, offset)) = self.find(page) else { return Ok(None) };
        if self.log.is_some() {
            // Neighbours in one file need not be neighbours in the other.
            let bytes = pages.buffer.take(self.page);
            source.read_exact_at(bytes, offset)?;
            return Ok(Some(bytes));
        }
        let inside = offset >= pages.start && offset + self.page as u64 <= pages.start + pages.len as u64;
        if !inside {
            let left = usize::try_from(source.len() - offset).unwrap_or(usize::MAX) / self.page * self.page;
            // Where one stretch follows the other, the next one will be wanted too.
            let more = if offset == pages.start + pages.len as u64 { WINDOW } else { 0 };
            let len = wanted.min(4 * WINDOW).max(more).max(self.page).min(left) / self.page * self.page;
            pages.len = 0;
            source.read_exact_at(pages.buffer.take(len), offset)?;
            (pages.start, pages.len) = (offset, len);
        }
        let from = (offset - pages.start) as usize;
        let len = pages.len;
        let there = (len - from) / self.page * self.page;
        Ok(pages.buffer.take(len).get(from..from + wanted.min(there)))
    }

    /// The entries of the index with this root whose first column is an integer: that, and the row's number; `None`
    /// where the index is not there as a whole.
    pub(crate) fn integers(&self, root: u32) -> Result<Option<Vec<(i64, i64)>>> {
        const INDEX_INTERIOR: u8 = 0x02;
        const INDEX_LEAF: u8 = 0x0A;
        let (mut found, mut seen, mut rest, mut buffer) = (Vec::new(), HashSet::new(), vec![(root, 0)], Vec::new());
        while let Some((page, depth)) = rest.pop() {
            if !seen.insert(page) || depth >= DEPTH || self.read(page, &mut buffer)?.is_none() {
                return Ok(None);
            }
            let kind = buffer.first().copied();
            let (head, skip) = match kind {
                Some(INDEX_LEAF) => (8, 0),
                Some(INDEX_INTERIOR) => (12, 4),
                _ => return Ok(None),
            };
            for cell in 0..usize::from(u16_at(&buffer, 3).unwrap_or(0)) {
                let entry = u16_at(&buffer, head + 2 * cell).and_then(|at| {
                    let cell = buffer.get(usize::from(at)..self.usable)?;
                    let child = if skip == 4 { u32_at(cell, 0)? } else { 0 };
                    let content = cell.get(skip..)?;
                    let (_, len) = varint(content)?;
                    let record = content.get(len..)?;
                    let column = |at: usize| {
                        let (serial, start, size) = place(record, at)?;
                        value(serial, record.get(start..start + size)?).integer()
                    };
                    Some((child, (column(0)?, column(1)?)))
                });
                let Some((child, entry)) = entry else { return Ok(None) };
                if skip == 4 {
                    rest.push((child, depth + 1));
                }
                found.push(entry);
            }
            if skip == 4 {
                let Some(right) = u32_at(&buffer, 8) else { return Ok(None) };
                rest.push((right, depth + 1));
            }
        }
        Ok(Some(found))
    }
}
