//! What a reader skipped, dropped or repaired, with exact counts and the place of the first.

/// How much a problem costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing of the recording is lost.
    Note,
    /// Bytes or events of the recording are lost.
    Loss,
}

impl Severity {
    /// Lower-case name, as in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Loss => "loss",
        }
    }
}

/// Kinds of problem; the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProblemCode {
    /// Events before the first time word: their time is unknown, they are dropped.
    BeforeFirstTime,
    /// External triggers before the first time word: dropped.
    TriggerBeforeFirstTime,
    /// EVT3 events before the first row address (of the file, or after lost bytes): dropped.
    BeforeFirstRow,
    /// EVT3 vector events before the first vector base (of the file, or after lost bytes): dropped.
    BeforeFirstBase,
    /// Events outside the sensor geometry: dropped.
    OutOfBounds,
    /// Words skipped because the time words around them could not be trusted.
    LostSync,
    /// The file ends inside a word or record: the rest is left out.
    Truncated,
    /// Lines of text that are no event: left out.
    BadLine,
    /// Rows in a part of the file that is damaged or missing: left out.
    Unreadable,
    /// Events whose time or polarity is not a number or out of range, and triggers of no input: left out.
    BadValue,
    /// Rows at the end of one column that another column does not have: left out.
    LengthMismatch,
    /// Records of a log that are damaged or torn: left out.
    LostRecords,
    /// Coordinates between pixels, given as the nearest.
    Rounded,
    /// Packets, messages or chunks that are damaged: what of them cannot be read is left out.
    DamagedPacket,
    /// Messages that are not in the recording, as the numbers of those beside them tell.
    LostMessages,
    /// Words of no known type in a packet: left out.
    UnknownWord,
    /// A container that its writer did not close: what is there is read.
    NotClosed,
    /// The file's own time index does not fit its times and was ignored.
    IndexMismatch,
    /// Events that the recording itself marks as invalid: left out.
    MarkedInvalid,
    /// Places where the clock was set back.
    TimeReset,
    /// An index saved beside the recording did not fit it and was ignored.
    StaleIndex,
}

impl ProblemCode {
    /// Stable upper-case name, as in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeFirstTime => "BEFORE_FIRST_TIME",
            Self::TriggerBeforeFirstTime => "TRIGGER_BEFORE_FIRST_TIME",
            Self::BeforeFirstRow => "BEFORE_FIRST_ROW",
            Self::BeforeFirstBase => "BEFORE_FIRST_BASE",
            Self::OutOfBounds => "OUT_OF_BOUNDS",
            Self::LostSync => "LOST_SYNC",
            Self::Truncated => "TRUNCATED",
            Self::BadLine => "BAD_LINE",
            Self::Unreadable => "UNREADABLE",
            Self::BadValue => "BAD_VALUE",
            Self::LengthMismatch => "LENGTH_MISMATCH",
            Self::LostRecords => "LOST_RECORDS",
            Self::Rounded => "ROUNDED",
            Self::DamagedPacket => "DAMAGED_PACKET",
            Self::LostMessages => "LOST_MESSAGES",
            Self::UnknownWord => "UNKNOWN_WORD",
            Self::NotClosed => "NOT_CLOSED",
            Self::IndexMismatch => "INDEX_MISMATCH",
            Self::MarkedInvalid => "MARKED_INVALID",
            Self::TimeReset => "TIME_RESET",
            Self::StaleIndex => "STALE_INDEX",
        }
    }

    /// What `count` counts.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::BeforeFirstTime
            | Self::BeforeFirstRow
            | Self::BeforeFirstBase
            | Self::OutOfBounds
            | Self::BadValue
            | Self::MarkedInvalid => "events",
            Self::TriggerBeforeFirstTime => "triggers",
            Self::LostSync | Self::UnknownWord => "words",
            Self::DamagedPacket => "packets",
            Self::LostMessages => "messages",
            Self::Truncated => "tails",
            Self::BadLine => "lines",
            Self::Unreadable | Self::LengthMismatch => "rows",
            Self::LostRecords => "records",
            Self::IndexMismatch => "indexes",
            Self::TimeReset => "resets",
            Self::Rounded | Self::StaleIndex | Self::NotClosed => "files",
        }
    }

    /// How much it costs.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::StaleIndex | Self::Rounded | Self::IndexMismatch | Self::NotClosed | Self::MarkedInvalid | Self::TimeReset => {
                Severity::Note
            }
            _ => Severity::Loss,
        }
    }
}

/// One kind of problem in a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What happened.
    pub code: ProblemCode,
    /// How often, in [`ProblemCode::unit`]s; exact.
    pub count: u64,
    /// Bytes of the file that are lost by it, where it is bytes that are lost.
    pub bytes: u64,
    /// Byte offset of the first.
    pub first_offset: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// The problems of a recording, one entry a code, in order of first appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    entries: Vec<Problem>,
}

impl Problems {
    /// Examples kept for each code.
    pub const EXAMPLES: usize = 3;

    /// Counts `count` more of `code`, the first of which stands at `offset`.
    pub(crate) fn add(&mut self, code: ProblemCode, count: u64, bytes: u64, offset: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        let entry = if let Some(entry) = self.entries.iter_mut().find(|problem| problem.code == code) {
            entry
        } else {
            self.entries.push(Problem { code, count: 0, bytes: 0, first_offset: offset, examples: Vec::new() });
            let last = self.entries.len() - 1;
            &mut self.entries[last]
        };
        // A file has it or not, however many places show it.
        entry.count = if code.unit() == "files" { 1 } else { entry.count.saturating_add(count) };
        entry.bytes = entry.bytes.saturating_add(bytes);
        entry.first_offset = entry.first_offset.min(offset);
        if entry.examples.len() < Self::EXAMPLES {
            entry.examples.push(example());
        }
    }

    /// An entry as it was saved.
    pub(crate) fn restore(&mut self, code: ProblemCode, count: u64, bytes: u64, first_offset: u64, examples: Vec<String>) {
        self.entries.push(Problem { code, count, bytes, first_offset, examples });
    }

    /// Adds the problems of `other`, found later in the file.
    pub(crate) fn merge(&mut self, other: &Self) {
        other.iter().for_each(|problem| self.merge_one(problem));
    }

    /// Adds one of them.
    pub(crate) fn merge_one(&mut self, problem: &Problem) {
        let mut examples = problem.examples.iter();
        self.add(problem.code, problem.count, problem.bytes, problem.first_offset, || examples.next().cloned().unwrap_or_default());
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.code == problem.code) {
            let room = Self::EXAMPLES.saturating_sub(entry.examples.len());
            entry.examples.extend(examples.take(room).cloned());
        }
    }

    /// The same with every offset at the place that `place` gives for it, in the examples too.
    pub(crate) fn moved(&self, place: impl Fn(u64) -> u64) -> Self {
        const AT: &str = "at byte ";
        let moved = |example: &String| {
            let Some((before, rest)) = example.split_once(AT) else { return example.clone() };
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            number.parse().map_or_else(|_| example.clone(), |at| format!("{before}{AT}{}{after}", place(at)))
        };
        let entries = self.entries.iter().map(|problem| Problem {
            first_offset: place(problem.first_offset),
            examples: problem.examples.iter().map(moved).collect(),
            ..problem.clone()
        });
        Self { entries: entries.collect() }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any bytes or events were lost.
    #[must_use]
    pub fn has_losses(&self) -> bool {
        self.entries.iter().any(|problem| problem.code.severity() == Severity::Loss)
    }

    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.entries.iter()
    }

    /// The entry of `code`.
    #[must_use]
    pub fn get(&self, code: ProblemCode) -> Option<&Problem> {
        self.entries.iter().find(|problem| problem.code == code)
    }
}
