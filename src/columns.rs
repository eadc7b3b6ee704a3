//! `EventColumns`: the typed buffers that decoders fill, and their way into Arrow and Polars without a copy.
//!
//! A set of columns lives in one [`Arena`]. Its memory is always initialised (zero pages from the operating
//! system, or an earlier batch's values), so a column is an ordinary slice at every moment.
#![expect(unsafe_code, reason = "anonymous memory with huge pages, shared with Arrow without a copy")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, DurationMicrosecondType, Int8Type, Int16Type, UInt8Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};
use crate::log::Payload;
use crate::schema::{Column, Columns};

/// Columns start at multiples of this, so that any SIMD load or store of a column is aligned to its start.
const COLUMN_ALIGN: usize = 64;
/// Size of a huge page; arenas of at least this size are mapped and ask for huge pages.
const HUGE_PAGE: usize = 2 << 20;
/// One owned stretch of initialised memory.
struct Arena {
    start: NonNull<u8>,
    origin: Origin,
}

/// Where the memory of an arena came from.
enum Origin {
    Heap(Layout),
    /// Always there but while it is dropped.
    #[cfg(target_os = "linux")]
    Mapped(Option<mapping::Mapping>),
    /// A part of a log, which it keeps alive.
    Log(#[expect(dead_code, reason = "kept, not read")] Payload),
    /// Unmapped when it is dropped.
    #[cfg(target_os = "linux")]
    Files(#[expect(dead_code, reason = "only kept")] crate::mapped::Stretch),
}

// SAFETY: an arena is plain memory with one owner; it is only written through `&mut ColumnsBuilder` and only read
// through shared references afterwards.
unsafe impl Send for Arena {}
// SAFETY: as above: no interior mutability.
unsafe impl Sync for Arena {}

impl Arena {
    /// At least `len` bytes, aligned to `COLUMN_ALIGN`.
    fn new(len: usize) -> Self {
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE
            && let Some(len) = len.checked_next_multiple_of(HUGE_PAGE)
            && let Some(mapping) = mapping::take(len)
        {
            return Self { start: mapping.start(), origin: Origin::Mapped(Some(mapping)) };
        }
        Self::heap(len)
    }

    fn heap(len: usize) -> Self {
        let size = len.checked_next_multiple_of(COLUMN_ALIGN).unwrap_or(usize::MAX).max(COLUMN_ALIGN);
        let Ok(layout) = Layout::from_size_align(size, COLUMN_ALIGN) else { panic!("events do not fit the address space") };
        // SAFETY: the layout's size is at least `COLUMN_ALIGN`, never zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { start, origin: Origin::Heap(layout) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        match &mut self.origin {
            // SAFETY: allocated in `heap` with this very layout.
            Origin::Heap(layout) => unsafe { dealloc(self.start.as_ptr(), *layout) },
            #[cfg(target_os = "linux")]
            Origin::Mapped(mapping) => {
                if let Some(mapping) = mapping.take() {
                    mapping::put(mapping);
                }
            }
            Origin::Log(_) => {}
            #[cfg(target_os = "linux")]
            Origin::Files(_) => {}
        }
    }
}

/// Memory from the system, and what is free of it.
///
/// Fresh memory is the dearest part of reading: the system clears every page. So memory that is freed is kept for the
/// next read, marked `MADV_FREE`: the system takes its pages back whenever it needs them.
#[cfg(target_os = "linux")]
mod mapping {
    use std::collections::VecDeque;
    use std::ptr::NonNull;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::HUGE_PAGE;

    /// Most bytes kept, where the machine has at least 16 times as many.
    const KEEP: usize = 1 << 30;

    /// A private anonymous mapping, in whole huge pages.
    pub(super) struct Mapping {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: a mapping is plain memory with one owner, who may be on any thread.
    unsafe impl Send for Mapping {}
    // SAFETY: a shared mapping gives only its address.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub(super) fn start(&self) -> NonNull<u8> {
            self.start
        }

        /// `len` bytes of fresh zero pages, a multiple of `HUGE_PAGE`, in huge pages where the system has them.
        fn new(len: usize) -> Option<Self> {
            let reserved = len.checked_add(HUGE_PAGE)?;
            // SAFETY: a new private anonymous mapping of no file touches no existing memory.
            let mapped = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    reserved,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return None;
            }
            let address = mapped as usize;
            let head = address.next_multiple_of(HUGE_PAGE) - address;
            let tail = HUGE_PAGE - head;
            // SAFETY: `head`, `len` and `tail` cut the mapping just made into three page-aligned parts (the mapping
            // and `HUGE_PAGE` are page-aligned); the outer two, which nobody has seen, are given back. The result of
            // `madvise` does not matter: without huge pages the memory is only slower.
            let start = unsafe {
                let start = mapped.cast::<u8>().add(head);
                if head > 0 {
                    libc::munmap(mapped, head);
                }
                libc::munmap(start.add(len).cast(), tail);
                libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
                start
            };
            NonNull::new(start).map(|start| Self { start, len })
        }

        /// Cuts the mapping in two after `len` bytes, a multiple of `HUGE_PAGE` less than its own length.
        fn split(mut self, len: usize) -> (Self, Self) {
            assert!(len < self.len, "a part of the mapping");
            // SAFETY: `len` is less than the length of the mapping.
            let rest = Self { start: unsafe { self.start.add(len) }, len: self.len - len };
            self.len = len;
            (self, rest)
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the range is a part of a mapping made in `new` that belongs to this value alone.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }

    /// Oldest first.
    static FREE: Mutex<VecDeque<Mapping>> = Mutex::new(VecDeque::new());

    /// Bytes to keep. The environment variable `EVLIB_KEEP_MB` sets another limit; 0 keeps nothing.
    static LIMIT: LazyLock<usize> = LazyLock::new(|| {
        if let Some(megabytes) = std::env::var("EVLIB_KEEP_MB").ok().and_then(|value| value.parse::<usize>().ok()) {
            return megabytes.saturating_mul(1 << 20);
        }
        // SAFETY: `sysconf` only reads its argument.
        let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        let memory = usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(size).unwrap_or(0));
        KEEP.min(memory / 16)
    });

    /// Exactly `len` bytes, a multiple of `HUGE_PAGE`: cut from the smallest free mapping that is large enough, or new.
    pub(super) fn take(len: usize) -> Option<Mapping> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = free.iter().enumerate().filter(|(_, mapping)| mapping.len >= len);
        let Some((place, _)) = fits.min_by_key(|(_, mapping)| mapping.len) else {
            drop(free);
            return Mapping::new(len);
        };
        let mapping = free.remove(place)?;
        if mapping.len == len {
            return Some(mapping);
        }
        let (mapping, rest) = mapping.split(len);
        free.push_back(rest);
        Some(mapping)
    }

    /// Keeps a mapping that nobody uses any more.
    pub(super) fn put(mapping: Mapping) {
        // SAFETY: the range is a mapping without users. Pages that the system takes back read as zeros: still
        // initialised memory.
        unsafe { libc::madvise(mapping.start.as_ptr().cast(), mapping.len, libc::MADV_FREE) };
        let mut dropped = Vec::new();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(mapping);
        let mut kept: usize = free.iter().map(|mapping| mapping.len).sum();
        while kept > *LIMIT
            && let Some(oldest) = free.pop_front()
        {
            kept -= oldest.len;
            dropped.push(oldest);
        }
        // What is dropped is unmapped without the lock.
        drop(free);
    }
}

/// Bytes that grow, in memory like that of columns: huge pages once they are many, and kept for others afterwards.
pub(crate) struct ByteBuffer {
    arena: Arena,
    /// Bytes of the arena.
    room: usize,
    len: usize,
}

impl ByteBuffer {
    /// Least room that is made.
    const LEAST: usize = 16 << 10;

    pub(crate) fn new() -> Self {
        Self { arena: Arena::heap(0), room: COLUMN_ALIGN, len: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.room
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for so many bytes more.
    pub(crate) fn reserve(&mut self, more: usize) {
        let needed = self.len.saturating_add(more);
        if needed <= self.room {
            return;
        }
        let growing = if self.len == 0 { 0 } else { self.room.saturating_mul(2) };
        let mut room = needed.max(growing).max(Self::LEAST);
        if room > HUGE_PAGE / 16 {
            room = room.checked_next_multiple_of(HUGE_PAGE).unwrap_or(room);
        }
        let old = std::mem::replace(self, Self { arena: Arena::new(room), room, len: 0 });
        self.extend_from_slice(&old);
    }

    /// Appends zeros.
    pub(crate) fn extend_zeros(&mut self, count: usize) {
        self.reserve(count);
        let start = self.len;
        self.len += count;
        self[start..].fill(0);
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let start = self.len;
        self.len += bytes.len();
        self[start..].copy_from_slice(bytes);
    }
}

impl std::ops::Deref for ByteBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the arena has `room` bytes, at least `len`, all initialised, and is this buffer's alone.
        unsafe { std::slice::from_raw_parts(self.arena.start.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for ByteBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.arena.start.as_ptr(), self.len) }
    }
}

/// Byte offset of each column in its arena.
type Offsets = [usize; 4];

const WIDTHS: [usize; 4] = [size_of::<i16>(), size_of::<i16>(), size_of::<i64>(), size_of::<i8>()];

/// A column that is a file's own bytes from `offset` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) column: Column,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "files are mapped on Linux alone"))]
    pub(crate) file: &'a std::fs::File,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "files are mapped on Linux alone"))]
    pub(crate) offset: u64,
}

/// Columns of a fixed number of rows, being filled.
pub(crate) struct ColumnsBuilder {
    arena: Arena,
    offsets: Offsets,
    columns: Columns,
    capacity: usize,
}

impl ColumnsBuilder {
    /// Room for `capacity` rows.
    pub(crate) fn new(capacity: usize, columns: Columns) -> Self {
        let mut offsets = Offsets::default();
        let mut len = 0_usize;
        for column in columns.iter() {
            offsets[column as usize] = len;
            let bytes = capacity.checked_mul(WIDTHS[column as usize]).and_then(|bytes| bytes.checked_next_multiple_of(COLUMN_ALIGN));
            len = bytes.and_then(|bytes| len.checked_add(bytes)).unwrap_or(usize::MAX);
        }
        Self { arena: Arena::new(len), offsets, columns, capacity }
    }

    /// Room for `capacity` rows, where the columns in `stored` are files' bytes from an offset on and need not be
    /// filled; they are aligned and as long.
    #[cfg(target_os = "linux")]
    pub(crate) fn over_files(capacity: usize, columns: Columns, stored: &[Stored<'_>]) -> std::io::Result<Self> {
        let page = crate::mapped::page();
        let mut places = Vec::new();
        let mut offsets = Offsets::default();
        let mut len = 0_usize;
        for column in columns.iter() {
            let width = WIDTHS[column as usize];
            let file = stored.iter().find(|stored| stored.column == column);
            let inside = file.map_or(0, |stored| (stored.offset % page as u64) as usize);
            assert!(inside.is_multiple_of(width), "stored columns are aligned");
            offsets[column as usize] = len + inside;
            let bytes = capacity.checked_mul(width).and_then(|bytes| bytes.checked_add(inside));
            let Some(end) = bytes.and_then(|bytes| len.checked_add(bytes)) else { return Err(std::io::ErrorKind::OutOfMemory.into()) };
            if let Some(stored) = file.filter(|_| end > len + inside) {
                places.push((len..end, stored.file, stored.offset - inside as u64));
            }
            len = end.checked_next_multiple_of(page).ok_or(std::io::ErrorKind::OutOfMemory)?;
        }
        let mut stretch = crate::mapped::Stretch::new(len)?;
        for (place, file, offset) in places {
            stretch.put(place, file, offset)?;
        }
        let arena = Arena { start: stretch.start(), origin: Origin::Files(stretch) };
        Ok(Self { arena, offsets, columns, capacity })
    }

    fn slice<T>(&mut self, column: Column) -> &mut [T] {
        debug_assert_eq!(size_of::<T>(), WIDTHS[column as usize], "type of column {}", column.name());
        if !self.columns.contains(column) {
            return &mut [];
        }
        // SAFETY: `new` or `over_files` laid the column out at this offset with room for `capacity` values, aligned
        // for them; every bit pattern is a value of the integer types of `WIDTHS`; the memory is initialised; columns do not overlap; the borrow of `self` makes the slice the only access.
        unsafe {
            let start = self.arena.start.as_ptr().add(self.offsets[column as usize]).cast::<T>();
            std::slice::from_raw_parts_mut(start, self.capacity)
        }
    }

    /// All rows as one stretch of slots.
    pub(crate) fn slots(&mut self) -> Slots<'_> {
        let capacity = self.capacity;
        // SAFETY: `slice` is called once for each column and columns do not overlap, so the four exclusive
        // borrows are of different memory; they live as long as the borrow of `self`.
        let (x, y, t, p) = unsafe {
            let this: *mut Self = self;
            (
                (*this).slice::<i16>(Column::X),
                (*this).slice::<i16>(Column::Y),
                (*this).slice::<i64>(Column::Timestamp),
                (*this).slice::<i8>(Column::Polarity),
            )
        };
        Slots { x, y, t, p, len: 0, capacity }
    }

    /// The first `rows` rows as finished columns.
    pub(crate) fn finish(self, rows: usize) -> EventColumns {
        assert!(rows <= self.capacity, "more rows than there is room for");
        EventColumns { arena: Arc::new(self.arena), offsets: self.offsets, columns: self.columns, start: 0, rows }
    }
}

/// A stretch of rows being filled; a column that is not selected is an empty slice.
#[derive(Default)]
pub(crate) struct Slots<'a> {
    pub(crate) x: &'a mut [i16],
    pub(crate) y: &'a mut [i16],
    pub(crate) t: &'a mut [i64],
    pub(crate) p: &'a mut [i8],
    /// Rows filled so far.
    pub(crate) len: usize,
    capacity: usize,
}

/// Rows to look at; a column that is not selected is an empty slice.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) x: &'a [i16],
    pub(crate) y: &'a [i16],
    pub(crate) t: &'a [i64],
    pub(crate) p: &'a [i8],
    pub(crate) len: usize,
}

impl Rows<'_> {
    /// The rows of a range, as far as there are any.
    pub(crate) fn cut(&self, range: std::ops::Range<usize>) -> Self {
        fn cut<T>(column: &[T], range: std::ops::Range<usize>) -> &[T] {
            column.get(range).unwrap_or_default()
        }
        let end = range.end.min(self.len);
        let range = range.start.min(end)..end;
        Self {
            x: cut(self.x, range.clone()),
            y: cut(self.y, range.clone()),
            t: cut(self.t, range.clone()),
            p: cut(self.p, range.clone()),
            len: range.len(),
        }
    }
}

/// Some of the rows of a stretch, which ones a byte a row says, or all.
pub(crate) struct Kept {
    pub(crate) rows: std::ops::Range<usize>,
    pub(crate) keep: Option<Vec<u8>>,
}

/// Moves what is kept to the front.
fn compact<T: Copy>(column: &mut [T], parts: &[Kept]) {
    if column.is_empty() {
        return;
    }
    let mut to = 0;
    for part in parts {
        match &part.keep {
            None => {
                column.copy_within(part.rows.clone(), to);
                to += part.rows.len();
            }
            Some(keep) => {
                for (from, keep) in part.rows.clone().zip(keep) {
                    column[to] = column[from];
                    to += usize::from(*keep);
                }
            }
        }
    }
}

/// `N` rows of a selected column from `at` on, as an array that needs no bounds checks.
#[inline(always)]
pub(crate) fn rows_at<const N: usize, T>(column: &mut [T], at: usize) -> &mut [T; N] {
    column.get_mut(at..).and_then(<[T]>::first_chunk_mut).expect("the caller has seen that there is room")
}

impl<'a> Slots<'a> {
    /// The rows filled so far.
    pub(crate) fn filled(&self) -> Rows<'_> {
        let rows = |have: usize| self.len.min(have);
        let Self { x, y, t, p, .. } = self;
        Rows { x: &x[..rows(x.len())], y: &y[..rows(y.len())], t: &t[..rows(t.len())], p: &p[..rows(p.len())], len: self.len }
    }

    /// Moves the rows that are kept to the front, in order; returns their number.
    pub(crate) fn compact(&mut self, parts: &[Kept]) -> usize {
        compact(self.x, parts);
        compact(self.y, parts);
        compact(self.t, parts);
        compact(self.p, parts);
        parts.iter().map(|part| part.keep.as_ref().map_or(part.rows.len(), |keep| keep.iter().map(|keep| usize::from(*keep)).sum())).sum()
    }

    /// Rows still free.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Takes columns away as a stretch of their own.
    pub(crate) fn take(&mut self, columns: Columns) -> Slots<'a> {
        let mut taken = Slots { x: &mut [], y: &mut [], t: &mut [], p: &mut [], len: self.len, capacity: self.capacity };
        for column in columns.iter() {
            match column {
                Column::X => taken.x = std::mem::take(&mut self.x),
                Column::Y => taken.y = std::mem::take(&mut self.y),
                Column::Timestamp => taken.t = std::mem::take(&mut self.t),
                Column::Polarity => taken.p = std::mem::take(&mut self.p),
            }
        }
        taken
    }

    /// Takes the first `rows` of an untouched stretch away as a stretch of their own.
    pub(crate) fn split_off_front(&mut self, rows: usize) -> Slots<'a> {
        assert!(self.len == 0 && rows <= self.capacity, "rows to split off are free");
        self.capacity -= rows;
        // A column that is not selected has no rows to give.
        Slots {
            x: self.x.split_off_mut(..rows).unwrap_or_default(),
            y: self.y.split_off_mut(..rows).unwrap_or_default(),
            t: self.t.split_off_mut(..rows).unwrap_or_default(),
            p: self.p.split_off_mut(..rows).unwrap_or_default(),
            len: 0,
            capacity: rows,
        }
    }

    /// Fills a stretch of as many rows with copies of `rows`, which have its columns and may have more.
    pub(crate) fn copy_from(&mut self, rows: Rows<'_>) {
        self.x.copy_from_slice(&rows.x[..self.x.len()]);
        self.y.copy_from_slice(&rows.y[..self.y.len()]);
        self.t.copy_from_slice(&rows.t[..self.t.len()]);
        self.p.copy_from_slice(&rows.p[..self.p.len()]);
        self.len = rows.len;
    }

    /// Panics unless the columns `COLS` have room for all rows: what kernels that store through pointers build on.
    pub(crate) fn assert_columns<const COLS: u8>(&self) {
        let lens = [self.x.len(), self.y.len(), self.t.len(), self.p.len()];
        let fits = (0..4).all(|column| COLS >> column & 1 == 0 || lens[column] == self.capacity);
        assert!(fits && self.len <= self.capacity, "slots have the columns that are filled");
    }

    /// Appends the selected columns of these events, for which there is room.
    pub(crate) fn extend(&mut self, columns: Columns, x: &[i16], y: &[i16], t: &[i64], p: &[i8]) {
        let rows = self.len..self.len + x.len();
        if columns.contains(Column::X) {
            self.x[rows.clone()].copy_from_slice(x);
        }
        if columns.contains(Column::Y) {
            self.y[rows.clone()].copy_from_slice(y);
        }
        if columns.contains(Column::Timestamp) {
            self.t[rows.clone()].copy_from_slice(t);
        }
        if columns.contains(Column::Polarity) {
            self.p[rows.clone()].copy_from_slice(p);
        }
        self.len = rows.end;
    }

    /// Appends one event. `COLS` must be the columns of the builder.
    #[inline(always)]
    pub(crate) fn push<const COLS: u8>(&mut self, x: u16, y: u16, t: i64, on: bool) {
        let at = self.len;
        if COLS & 1 != 0 {
            self.x[at] = x.cast_signed();
        }
        if COLS & 2 != 0 {
            self.y[at] = y.cast_signed();
        }
        if COLS & 4 != 0 {
            self.t[at] = t;
        }
        if COLS & 8 != 0 {
            self.p[at] = if on { 1 } else { -1 };
        }
        self.len = at + 1;
    }
}

/// Evaluates `$call` with the constant `$COLS`, the bits of `$columns`.
macro_rules! with_columns {
    ($columns:expr, $COLS:ident => $call:expr) => {
        $crate::columns::with_columns!(@ $columns, $COLS => $call; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $columns:expr, $COLS:ident => $call:expr; $($bits:literal)*) => {
        match $columns.bits() {
            $($bits => {
                const $COLS: u8 = $bits;
                $call
            })*
            _ => unreachable!("a set of four columns"),
        }
    };
}
pub(crate) use with_columns;

/// Events as typed columns: `x` and `y` i16, `timestamp` i64 microseconds, `polarity` i8 (+1 or -1).
///
/// Cheap to clone and to slice: the buffers are shared. 13 bytes an event, no null bitmaps.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-columns-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// let events = evlib::Recording::open(&path)?.read(&evlib::Selection::default())?;
/// assert_eq!(events.x().len(), events.len());
/// let batch = events.to_record_batch(); // Arrow, the same memory
/// assert_eq!(batch.num_rows(), events.len());
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EventColumns {
    arena: Arc<Arena>,
    offsets: Offsets,
    columns: Columns,
    start: usize,
    rows: usize,
}

impl EventColumns {
    /// No rows.
    #[must_use]
    pub fn empty(columns: Columns) -> Self {
        ColumnsBuilder::new(0, columns).finish(0)
    }

    /// Columns with copies of these values.
    ///
    /// # Errors
    /// `InvalidArgument` if they differ in length.
    pub fn from_slices(x: &[i16], y: &[i16], timestamp_us: &[i64], polarity: &[i8]) -> Result<Self> {
        let rows = x.len();
        if [y.len(), timestamp_us.len(), polarity.len()] != [rows; 3] {
            return Err(Error::invalid("columns differ in length").expecting(format!("{rows} values each")).but_found(format!(
                "{}, {} and {}",
                y.len(),
                timestamp_us.len(),
                polarity.len()
            )));
        }
        let mut builder = ColumnsBuilder::new(rows, Columns::ALL);
        let slots = builder.slots();
        slots.x.copy_from_slice(x);
        slots.y.copy_from_slice(y);
        slots.t.copy_from_slice(timestamp_us);
        slots.p.copy_from_slice(polarity);
        Ok(builder.finish(rows))
    }

    /// Columns in the bytes of a log, at these places; `None` where they are not within them, or not aligned.
    pub(crate) fn view(payload: &Payload, offsets: Offsets, columns: Columns, rows: usize) -> Option<Self> {
        let bytes = payload.bytes();
        let start = NonNull::new(bytes.as_ptr().cast_mut())?;
        for column in Column::ALL {
            let (offset, width) = (offsets[column as usize], WIDTHS[column as usize]);
            bytes.get(offset..offset.checked_add(rows.checked_mul(width)?)?)?;
            if !(start.addr().get() + offset).is_multiple_of(width) {
                return None;
            }
        }
        // Never written to: a builder makes its own arena.
        let arena = Arena { start, origin: Origin::Log(payload.clone()) };
        Some(Self { arena: Arc::new(arena), offsets, columns, start: 0, rows })
    }

    /// The bytes of a column; empty if not selected.
    pub(crate) fn bytes_of(&self, column: Column) -> &[u8] {
        fn bytes<T>(values: &[T]) -> &[u8] {
            // SAFETY: the values are integers of the types of `WIDTHS`, which have no padding; any byte of them can be
            // read, as long as the borrow of the values lasts.
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
        }
        match column {
            Column::X | Column::Y => bytes(self.slice_of::<i16>(column)),
            Column::Timestamp => bytes(self.slice_of::<i64>(column)),
            Column::Polarity => bytes(self.slice_of::<i8>(column)),
        }
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns that were selected.
    #[must_use]
    pub fn columns(&self) -> Columns {
        self.columns
    }

    fn slice_of<T>(&self, column: Column) -> &[T] {
        debug_assert_eq!(size_of::<T>(), WIDTHS[column as usize], "type of column {}", column.name());
        if !self.columns.contains(column) {
            return &[];
        }
        // SAFETY: `ColumnsBuilder::new` laid the column out at this offset, aligned and initialised, with room for
        // at least `start + rows` values (`finish` and `slice` keep to that), or `view` has checked that it is so;
        // nobody writes to the arena any more.
        unsafe {
            let start = self.arena.start.as_ptr().add(self.offsets[column as usize]).cast::<T>().add(self.start);
            std::slice::from_raw_parts(start, self.rows)
        }
    }

    /// Sensor columns, 0 = left; empty if not selected.
    #[must_use]
    pub fn x(&self) -> &[i16] {
        self.slice_of(Column::X)
    }

    /// Sensor rows, 0 = top; empty if not selected.
    #[must_use]
    pub fn y(&self) -> &[i16] {
        self.slice_of(Column::Y)
    }

    /// Times in microseconds; empty if not selected.
    #[must_use]
    pub fn timestamp(&self) -> &[i64] {
        self.slice_of(Column::Timestamp)
    }

    /// +1 brighter, -1 darker; empty if not selected.
    #[must_use]
    pub fn polarity(&self) -> &[i8] {
        self.slice_of(Column::Polarity)
    }

    /// The rows from `offset` on, at most `rows`, to look at.
    pub(crate) fn rows(&self, offset: usize, rows: usize) -> Rows<'_> {
        fn cut<T>(column: &[T], range: std::ops::Range<usize>) -> &[T] {
            column.get(range).unwrap_or_default()
        }
        let end = self.rows.min(offset.saturating_add(rows));
        let range = offset.min(end)..end;
        Rows {
            x: cut(self.x(), range.clone()),
            y: cut(self.y(), range.clone()),
            t: cut(self.timestamp(), range.clone()),
            p: cut(self.polarity(), range.clone()),
            len: range.len(),
        }
    }

    /// `rows` rows from `offset` on, sharing the memory.
    ///
    /// # Panics
    /// If there are fewer rows than that.
    #[must_use]
    pub fn slice(&self, offset: usize, rows: usize) -> Self {
        assert!(offset.checked_add(rows).is_some_and(|end| end <= self.rows), "slice of {rows} rows at {offset} is out of range");
        Self { start: self.start + offset, rows, ..self.clone() }
    }

    /// The same rows with at most these columns.
    pub(crate) fn only(self, columns: Columns) -> Self {
        Self { columns: self.columns.and(columns), ..self }
    }

    /// One set of columns with the rows of all, in order; copies, unless there is only one.
    pub(crate) fn concat(parts: Vec<Self>, columns: Columns) -> Self {
        let mut parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.len() <= 1 {
            return parts.pop().unwrap_or_else(|| Self::empty(columns));
        }
        let rows = parts.iter().map(Self::len).sum();
        let mut builder = ColumnsBuilder::new(rows, columns);
        let mut slots = builder.slots();
        for part in parts {
            slots.split_off_front(part.len()).copy_from(part.all_rows());
        }
        builder.finish(rows)
    }

    /// All rows, to look at.
    pub(crate) fn all_rows(&self) -> Rows<'_> {
        Rows { x: self.x(), y: self.y(), t: self.timestamp(), p: self.polarity(), len: self.rows }
    }

    fn arrow<T: ArrowPrimitiveType>(&self, column: Column) -> ArrayRef {
        let values = self.slice_of::<T::Native>(column);
        let Some(start) = NonNull::new(values.as_ptr().cast_mut().cast::<u8>()) else { unreachable!("slices are never null") };
        // SAFETY: the bytes are those of `values`, aligned for `T::Native`; the arena keeps them alive and unchanged
        // as long as the buffer holds its reference.
        let buffer = unsafe { Buffer::from_custom_allocation(start, size_of_val(values), Arc::clone(&self.arena) as _) };
        Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::new(buffer, 0, values.len()), None))
    }

    /// The same memory as an Arrow record batch.
    #[must_use]
    pub fn to_record_batch(&self) -> RecordBatch {
        let arrays = self.columns.iter().map(|column| match column {
            Column::X | Column::Y => self.arrow::<Int16Type>(column),
            Column::Timestamp => self.arrow::<DurationMicrosecondType>(column),
            Column::Polarity => self.arrow::<Int8Type>(column),
        });
        record_batch(event_schema(self.columns), arrays.collect(), self.rows)
    }

    /// The same memory as a Polars `DataFrame`.
    ///
    /// # Panics
    /// Never: the columns have one length.
    #[cfg(feature = "polars")]
    #[must_use]
    pub fn to_dataframe(&self) -> polars_core::frame::DataFrame {
        use polars_core::prelude::{ChunkedArray, Int8Type, Int16Type, Int64Type, IntoColumn, IntoSeries, TimeUnit};
        let columns = self.columns.iter().map(|column| match column {
            Column::X | Column::Y => {
                ChunkedArray::<Int16Type>::with_chunk(column.name().into(), self.polars_array(column)).into_series().into_column()
            }
            Column::Timestamp => ChunkedArray::<Int64Type>::with_chunk(column.name().into(), self.polars_array(column))
                .into_duration(TimeUnit::Microseconds)
                .into_series()
                .into_column(),
            Column::Polarity => {
                ChunkedArray::<Int8Type>::with_chunk(column.name().into(), self.polars_array(column)).into_series().into_column()
            }
        });
        match polars_core::frame::DataFrame::new(self.rows, columns.collect()) {
            Ok(frame) => frame,
            Err(error) => unreachable!("columns of one length: {error}"),
        }
    }

    #[cfg(feature = "polars")]
    fn polars_array<T: polars_arrow::types::NativeType>(&self, column: Column) -> polars_arrow::array::PrimitiveArray<T> {
        struct View<T>(EventColumns, Column, std::marker::PhantomData<T>);
        impl<T> AsRef<[T]> for View<T> {
            fn as_ref(&self) -> &[T] {
                self.0.slice_of(self.1)
            }
        }
        let buffer = polars_buffer::Buffer::from_owner(View::<T>(self.clone(), column, std::marker::PhantomData));
        polars_arrow::array::PrimitiveArray::new(T::PRIMITIVE.into(), buffer, None)
    }
}

impl fmt::Debug for EventColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventColumns").field("columns", &self.columns).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl PartialEq for EventColumns {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns
            && self.rows == other.rows
            && self.x() == other.x()
            && self.y() == other.y()
            && self.timestamp() == other.timestamp()
            && self.polarity() == other.polarity()
    }
}

/// External triggers: edges seen at the camera's trigger inputs, on the clock of its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TriggerColumns {
    /// Input channel.
    pub id: Vec<u8>,
    /// +1 rising edge, -1 falling edge.
    pub polarity: Vec<i8>,
    /// Time in microseconds.
    pub timestamp: Vec<i64>,
}

impl TriggerColumns {
    /// Number of triggers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timestamp.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timestamp.is_empty()
    }

    pub(crate) fn push(&mut self, id: u8, rising: bool, t: i64) {
        self.id.push(id);
        self.polarity.push(if rising { 1 } else { -1 });
        self.timestamp.push(t);
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.id.append(&mut other.id);
        self.polarity.append(&mut other.polarity);
        self.timestamp.append(&mut other.timestamp);
    }

    /// As an Arrow record batch, without a copy.
    #[must_use]
    pub fn into_record_batch(self) -> RecordBatch {
        let rows = self.len();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(PrimitiveArray::<UInt8Type>::from(self.id)),
            Arc::new(PrimitiveArray::<Int8Type>::from(self.polarity)),
            Arc::new(PrimitiveArray::<DurationMicrosecondType>::from(self.timestamp)),
        ];
        record_batch(trigger_schema(), arrays, rows)
    }
}

pub(crate) fn record_batch(schema: SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    match RecordBatch::try_new_with_options(schema, arrays, &options) {
        Ok(batch) => batch,
        Err(error) => unreachable!("columns of one length and of the schema's types: {error}"),
    }
}

/// Arrow schema of events with these columns.
#[must_use]
pub fn event_schema(columns: Columns) -> SchemaRef {
    let fields = columns.iter().map(|column| {
        let data_type = match column {
            Column::X | Column::Y => DataType::Int16,
            Column::Timestamp => DataType::Duration(TimeUnit::Microsecond),
            Column::Polarity => DataType::Int8,
        };
        Field::new(column.name(), data_type, false)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Arrow schema of external triggers.
#[must_use]
pub fn trigger_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::UInt8, false),
        Field::new("polarity", DataType::Int8, false),
        Field::new("timestamp", DataType::Duration(TimeUnit::Microsecond), false),
    ]))
}

#[cfg(test)]
mod tests {
    use super::{ByteBuffer, HUGE_PAGE};

    #[test]
    fn a_byte_buffer_grows_and_keeps_what_is_in_it() {
        let (mut buffer, mut plain) = (ByteBuffer::new(), Vec::new());
        for round in 0..3 {
            for len in [0, 1, 63, 64, 20_000, HUGE_PAGE / 8, 3, HUGE_PAGE + 1] {
                let part: Vec<u8> = (0..len).map(|at| (at % 251 + round) as u8 | 1).collect();
                buffer.extend_from_slice(&part);
                buffer.extend_zeros(len / 3);
                plain.extend_from_slice(&part);
                plain.resize(plain.len() + len / 3, 0);
                assert!(buffer[..] == plain[..] && buffer.capacity() >= plain.len());
            }
            // What was there before is not seen through zeros.
            let kept = buffer.capacity();
            buffer.clear();
            plain.clear();
            assert!(buffer.is_empty() && buffer.capacity() == kept);
        }
        buffer.extend_zeros(5);
        buffer[2] = 7;
        assert_eq!(buffer[..], [0, 0, 7, 0, 0]);
    }
}
