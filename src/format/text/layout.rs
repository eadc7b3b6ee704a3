//! What the columns of a text are: from the caller, from names, or from the first lines.

use super::number::{Number, polarity};
use crate::error::{Error, Result};
use crate::format::{looks_like, looks_unknown};
use crate::recording::OpenOptions;
use crate::schema::{Geometry, TimeUnit};

/// Most lines that are looked at.
const SAMPLE: usize = 4096;
/// Most columns that are looked at.
const WIDEST: usize = 64;
/// Largest coordinate.
const LARGEST: i128 = i16::MAX as i128;

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Time,
    X,
    Y,
    Polarity,
    Skip,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Time => "t",
            Self::X => "x",
            Self::Y => "y",
            Self::Polarity => "p",
            Self::Skip => "_",
        }
    }
}

/// What stands between fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separator {
    Comma,
    Semicolon,
    /// One tab: cells may be empty.
    Tab,
    /// Any number of blanks and tabs.
    Blank,
}

impl Separator {
    fn of(line: &[u8]) -> Self {
        if line.contains(&b',') {
            Self::Comma
        } else if line.contains(&b';') {
            Self::Semicolon
        } else if line.contains(&b'\t') {
            Self::Tab
        } else {
            Self::Blank
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Comma => "comma",
            Self::Semicolon => "semicolon",
            Self::Tab => "tab",
            Self::Blank => "blank",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Comma => "commas",
            Self::Semicolon => "semicolons",
            Self::Tab => "tabs",
            Self::Blank => "blanks",
        }
    }

    #[inline(always)]
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
            Self::Blank => b' ',
        }
    }

    /// The fields of a line without blanks and quotes around them.
    pub(crate) fn fields(self, line: &[u8]) -> Fields<'_> {
        Fields { rest: Some(line), separator: self }
    }
}

pub(crate) struct Fields<'a> {
    rest: Option<&'a [u8]>,
    separator: Separator,
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let field = if self.separator == Separator::Blank {
            let rest = rest.trim_ascii_start();
            if rest.is_empty() {
                self.rest = None;
                return None;
            }
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            let (field, rest) = rest.split_at(end);
            self.rest = Some(rest);
            field
        } else if let Some(end) = rest.iter().position(|byte| *byte == self.separator.byte()) {
            self.rest = rest.get(end + 1..);
            rest.get(..end).unwrap_or_default()
        } else {
            self.rest = None;
            rest
        };
        let field = field.trim_ascii();
        Some(match field {
            [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner.trim_ascii(),
            field => field,
        })
    }
}

/// What the lines of a file are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The columns up to the last one needed.
    pub(crate) roles: Vec<Role>,
    pub(crate) separator: Separator,
    pub(crate) unit: TimeUnit,
    /// Byte at which the lines of events start.
    pub(crate) start: u64,
    /// Sensor size that the file states.
    pub(crate) geometry: Option<Geometry>,
    /// Whether names say what the columns are.
    pub(crate) named: bool,
    pub(crate) reasons: Vec<String>,
}

/// What a name says of its column.
struct Named {
    role: Role,
    unit: Option<TimeUnit>,
    /// Sensor size after `@`.
    size: Option<u32>,
}

impl Named {
    fn parse(field: &[u8]) -> Self {
        let text = String::from_utf8_lossy(field).to_lowercase();
        let (name, size) = match text.split_once('@') {
            Some((name, size)) => (name, size.trim().parse().ok()),
            None => (text.as_str(), None),
        };
        let words: Vec<&str> =
            name.split(|letter: char| !letter.is_alphanumeric() && letter != '+').filter(|word| !word.is_empty()).collect();
        let unit_of = |word: &str| match word {
            "s" | "sec" | "secs" | "second" | "seconds" => Some(TimeUnit::Seconds),
            "ms" | "millisecond" | "milliseconds" => Some(TimeUnit::Milliseconds),
            "us" | "\u{b5}s" | "\u{3bc}s" | "usec" | "microsecond" | "microseconds" => Some(TimeUnit::Microseconds),
            "ns" | "nsec" | "nanosecond" | "nanoseconds" => Some(TimeUnit::Nanoseconds),
            _ => None,
        };
        let (role, unit) = match words.as_slice() {
            ["t" | "ts" | "time" | "times" | "timestamp" | "timestamps"] => (Role::Time, None),
            ["t" | "ts" | "time" | "times" | "timestamp" | "timestamps", unit] if unit_of(unit).is_some() => (Role::Time, unit_of(unit)),
            ["x" | "xs"] => (Role::X, None),
            ["y" | "ys"] => (Role::Y, None),
            ["p" | "pol" | "ps" | "polarity" | "polarities" | "on"] | ["is", "on" | "increase"] => (Role::Polarity, None),
            _ => (Role::Skip, None),
        };
        Self { role, unit, size }
    }
}

/// The columns that names give, if they name at least two.
fn names(separator: Separator, line: &[u8]) -> Option<Vec<Named>> {
    let named: Vec<Named> = separator.fields(line).take(WIDEST).map(Named::parse).collect();
    (named.iter().filter(|named| named.role != Role::Skip).count() >= 2).then_some(named)
}

/// A column of the first lines.
#[derive(Debug, Default)]
struct Seen {
    values: u64,
    /// In millionths.
    low: Option<i128>,
    high: Option<i128>,
    last: Option<i128>,
    steps_back: u64,
    /// Values with a point or an exponent; among them, those that say nothing by it (`12.0`, `1.2e1`).
    decimal: u64,
    idle: u64,
    /// Values that differ from the one before.
    changes: u64,
    /// Values that are -1, 0 or 1, or words for them.
    polarity: u64,
    /// Fields that are words; values that are not whole; values that no pixel can have.
    words: u64,
    fractions: u64,
    beyond: u64,
    zero_and_minus: (bool, bool),
}

impl Seen {
    fn take(&mut self, field: &[u8]) {
        self.values += 1;
        let number = Number::parse(field);
        self.polarity += u64::from(polarity(field).is_some());
        let Some(number) = number else {
            self.words += 1;
            return;
        };
        let Some(value) = number.millionths() else { return };
        if number.has_point {
            self.decimal += 1;
            self.idle += u64::from(number.is_whole());
        }
        self.fractions += u64::from(value % 1_000_000 != 0);
        self.beyond += u64::from(!(-1_000_000..=LARGEST * 1_000_000).contains(&value));
        self.zero_and_minus.0 |= value == 0;
        self.zero_and_minus.1 |= value == -1_000_000;
        self.steps_back += u64::from(self.last.is_some_and(|last| value < last));
        self.changes += u64::from(self.last.is_some_and(|last| value != last));
        self.last = Some(value);
        self.low = Some(self.low.map_or(value, |low| low.min(value)));
        self.high = Some(self.high.map_or(value, |high| high.max(value)));
    }

    fn range(&self) -> i128 {
        self.high.unwrap_or(0) - self.low.unwrap_or(0)
    }

    /// Whether the values go ahead, but for a few.
    fn ahead(&self) -> bool {
        self.is_numeric() && self.steps_back * 50 <= self.values
    }

    fn is_polarity(&self) -> bool {
        self.values > 0 && self.polarity * 4 >= self.values * 3 && self.zero_and_minus != (true, true)
    }

    /// Whether nearly all are numbers; a few lines may be damaged.
    fn is_numeric(&self) -> bool {
        self.words * 10 <= self.values
    }

    /// Whether no pixel can have these values, but for a few.
    fn is_beyond(&self) -> bool {
        self.beyond * 4 > self.values
    }

    /// Whether not all values are whole, but for a few.
    fn has_fractions(&self) -> bool {
        self.fractions * 4 > self.values
    }

    /// Whether the values are written with decimals, or with an exponent.
    fn has_decimals(&self) -> bool {
        self.decimal * 4 > self.values
    }

    /// Whether these times are seconds by their decimals. Whole ones over a long range, or many of them, are another unit that
    /// was written as floating point: no camera has all its events at full seconds.
    fn is_seconds(&self) -> bool {
        self.has_decimals() && (self.idle < self.decimal || self.range() < 1000 * 1_000_000 && self.changes < 256)
    }
}

/// Where the first line ends, if lines end with carriage returns alone.
fn returns_alone(head: &[u8]) -> Option<usize> {
    let end = head.trim_ascii().iter().position(|byte| *byte == b'\r')?;
    (!head.contains(&b'\n')).then_some(end + head.len() - head.trim_ascii_start().len())
}

/// The content lines of the head: where each starts, and the line without its end.
struct Contents<'a> {
    head: &'a [u8],
    at: usize,
    /// Whether the head is the whole file, so that its last line is whole too.
    whole: bool,
    /// Sensor size in a comment.
    geometry: Option<Geometry>,
    /// The last comment that could be names.
    comment: Option<&'a [u8]>,
}

impl<'a> Contents<'a> {
    fn new(head: &'a [u8], whole: bool) -> Self {
        let at = if head.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Self { head, at, whole, geometry: None, comment: None }
    }
}

impl<'a> Iterator for Contents<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.at;
            let rest = self.head.get(start..).filter(|rest| !rest.is_empty())?;
            let line = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.at += end + 1;
                    rest.get(..end).unwrap_or_default()
                }
                None if self.whole => {
                    self.at = self.head.len();
                    rest
                }
                None => return None,
            };
            // A leading tab is the end of an empty field.
            let line = line.trim_ascii_end();
            match line.trim_ascii_start() {
                [] => {}
                [b'#' | b'%', comment @ ..] => {
                    if let Some(size) = comment.strip_prefix(b"geometry:").or_else(|| comment.strip_prefix(b" geometry:")) {
                        self.geometry = self.geometry.or_else(|| two(Separator::Comma, size)?.ok());
                    }
                    self.comment = Some(comment);
                }
                _ => return Some((start, line)),
            }
        }
    }
}

/// The sensor size in a line of exactly two whole numbers.
fn two(separator: Separator, line: &[u8]) -> Option<Result<Geometry>> {
    let mut fields = separator.fields(line);
    let (width, height) = (fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
    Some(Geometry::new(number(width)?, number(height)?))
}

/// Whether the first four fields could be those of an event.
fn is_data(separator: Separator, line: &[u8]) -> bool {
    separator.fields(line).take(4).filter(|field| Number::parse(field).is_some() || polarity(field).is_some()).count() == 4
}

/// Whether a line has a time where these columns have it; or four numbers, where the columns are not known.
fn is_row(separator: Separator, line: &[u8], known: Option<&[Role]>) -> bool {
    let Some(place) = known.and_then(|roles| roles.iter().position(|role| *role == Role::Time)) else {
        return is_data(separator, line);
    };
    separator.fields(line).nth(place).is_some_and(|field| Number::parse(field).is_some())
}

/// What the columns of a line say.
pub(crate) struct Values {
    /// Microseconds.
    pub(crate) t: i64,
    /// The pixel, and whether it was rounded.
    pub(crate) x: (i64, bool),
    pub(crate) y: (i64, bool),
    pub(crate) on: bool,
}

/// The values of a line with these columns, or why it has none.
#[inline]
pub(crate) fn values(separator: Separator, roles: &[Role], unit: TimeUnit, line: &[u8]) -> Result<Values, &'static str> {
    if line.trim_ascii().contains(&b'\r') {
        return Err("a carriage return inside");
    }
    let (mut x, mut y, mut t, mut on) = (None, None, None, None);
    let mut fields = separator.fields(line);
    for role in roles {
        let field = fields.next().ok_or("too few fields")?;
        match role {
            Role::Skip => {}
            Role::Time => t = Number::parse(field).and_then(|number| number.microseconds(unit)),
            Role::X => x = Number::parse(field).and_then(Number::rounded),
            Role::Y => y = Number::parse(field).and_then(Number::rounded),
            Role::Polarity => on = polarity(field),
        }
    }
    let t = t.ok_or("no time")?;
    let (Some(x), Some(y)) = (x, y) else { return Err("no pixel") };
    Ok(Values { t, x, y, on: on.ok_or("no polarity")? })
}

/// What parts the fields of these lines, for which no header speaks: tabs only if lines fit then.
fn tab_or_blank(separator: Separator, lines: &[(usize, &[u8])], fits: impl Fn(Separator, &[u8]) -> bool) -> Separator {
    let any = |separator| lines.iter().any(|(_, line)| fits(separator, line));
    if separator == Separator::Tab && !any(Separator::Tab) && any(Separator::Blank) { Separator::Blank } else { separator }
}

/// A line, or the start of it, as errors and problems show it.
pub(crate) fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..80).unwrap_or(line)).trim_end().escape_debug().collect()
}

/// Whether a file is text, and nothing else that is known.
pub(crate) fn is_text(head: &[u8]) -> bool {
    if !looks_unknown(head) || head.iter().any(|byte| *byte < b' ' && !byte.is_ascii_whitespace()) {
        return false;
    }
    !(head.starts_with(b"% ") && vendor_header(head))
}

/// Whether a file is taken for text with events: most of its first lines have at least four numbers, or names say that
/// it has events.
pub(crate) fn fits(head: &[u8]) -> bool {
    if !is_text(head) {
        return false;
    }
    if let Some(end) = returns_alone(head) {
        return head.get(..end).is_some_and(|line| names(Separator::of(line), line).is_some() || is_data(Separator::of(line), line));
    }
    let mut contents = Contents::new(head, head.len() < crate::format::HEAD);
    let lines: Vec<(usize, &[u8])> = contents.by_ref().take(256).collect();
    let Some((_, first)) = lines.first() else { return false };
    let separator = tab_or_blank(Separator::of(lines.get(1).map_or(first, |(_, second)| second)), &lines, is_data);
    if let Some(named) = names(Separator::of(first), first) {
        let has = |role| named.iter().any(|named| named.role == role);
        return has(Role::Time) && has(Role::X) && has(Role::Y);
    }
    let data = lines.iter().filter(|(_, line)| is_data(separator, line)).count();
    data > 0 && data * 2 >= lines.len().saturating_sub(1)
}

/// Whether lines that start with `% ` are the header of a RAW or DAT file.
fn vendor_header(head: &[u8]) -> bool {
    const KEYS: [&[u8]; 12] = [
        b"end",
        b"evt",
        b"format",
        b"version",
        b"data",
        b"date",
        b"geometry",
        b"system_id",
        b"serial_number",
        b"integrator_name",
        b"camera_integrator_name",
        b"plugin_name",
    ];
    head.split(|byte| *byte == b'\n').take_while(|line| line.starts_with(b"% ")).any(|line| {
        let key = line.get(2..).unwrap_or_default().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        KEYS.contains(&key.to_ascii_lowercase().as_slice())
    })
}

fn unclear(found: impl Into<String>, at: usize) -> Error {
    Error::format("cannot tell which column is what")
        .expecting("columns `t x y p`, `x y p t` or `x y t p`, or a header line with their names")
        .but_found(found)
        .at(at as u64)
        .hint("pass `text_columns`, for example `text_columns=\"t x y p\"`, with `_` for a column to skip")
}

impl Layout {
    /// Finds the layout from the head of a file, which is `whole` if there is no more of it.
    pub(crate) fn detect(head: &[u8], whole: bool, options: &OpenOptions) -> Result<Self> {
        let wanted = options.text_columns.as_deref().map(parse_columns).transpose()?;
        if let Some(end) = returns_alone(head) {
            return Err(Error::format("lines that end with carriage returns alone are not read")
                .expecting("line feeds, with or without carriage returns before them")
                .but_found(format!("a carriage return after `{}`", shown(head.get(..end).unwrap_or_default())))
                .at(end as u64)
                .hint("write the file with line feeds, for example with `tr '\\r' '\\n'`"));
        }
        let mut contents = Contents::new(head, whole);
        let mut lines: Vec<(usize, &[u8])> = contents.by_ref().take(SAMPLE).collect();
        let mut geometry = contents.geometry;
        let comment = contents.comment;
        let end = contents.at;
        let mut reasons = Vec::new();
        let mut start = lines.first().map_or(end, |(at, _)| *at);

        // A line of two numbers in front of lines of more is the sensor size.
        if let Some((_, first)) = lines.first()
            && let Some(size) = two(Separator::of(first), first)
            && lines.get(1).is_none_or(|(_, line)| Separator::of(line).fields(line).count() >= 3)
        {
            geometry = Some(size.map_err(|error| {
                error.at(start as u64).hint("the first line has two numbers: it is taken for the width and height of the sensor")
            })?);
            lines.remove(0);
            start = lines.first().map_or(end, |(at, _)| *at);
            reasons.push("the first line is the sensor size".to_owned());
        }
        let mut separator = lines.get(1).or(lines.first()).map_or(Separator::Blank, |(_, line)| Separator::of(line));

        // Names.
        let mut header = None;
        if let Some((_, first)) = lines.first()
            && let Some(named) = names(Separator::of(first), first)
        {
            header = Some(named);
            // A comma between semicolons or tabs is one of decimals.
            let parts = Separator::of(first);
            if let Separator::Semicolon | Separator::Tab = parts
                && lines.get(1).is_some_and(|(_, second)| second.contains(&parts.byte()))
            {
                separator = parts;
            }
            reasons.push(format!("header line `{}`", shown(first)));
        } else if wanted.is_some()
            && lines.first().is_some_and(|(_, first)| !is_row(separator, first, wanted.as_deref()))
            && lines.get(1).is_some_and(|(_, second)| is_row(separator, second, wanted.as_deref()))
        {
            header = Some(Vec::new());
        }
        if header.is_some() {
            lines.remove(0);
            start = lines.first().map_or(end, |(at, _)| *at);
        } else if let Some(comment) = comment.map(<[u8]>::trim_ascii)
            && let Some((_, first)) = lines.first()
            && let Some(named) = names(Separator::of(comment), comment)
            && named.len() == separator.fields(first).count()
            && [Role::Time, Role::X, Role::Y, Role::Polarity].iter().all(|role| named.iter().any(|named| named.role == *role))
        {
            reasons.push(format!("comment `# {}`", String::from_utf8_lossy(comment)));
            header = Some(named);
        }
        if header.is_none() {
            separator = tab_or_blank(separator, &lines, |separator, line| match &wanted {
                Some(roles) => values(separator, roles, TimeUnit::Microseconds, line).is_ok(),
                None => is_data(separator, line),
            });
        }
        let mut header = header.unwrap_or_default();
        if wanted.is_none()
            && !header.is_empty()
            && let Some((at, first)) = lines.first()
            && separator.fields(first).count() == header.len() + 1
            && separator.fields(first).last().is_some_and(|field| !field.is_empty())
            && first_has_no_name(separator, &from_names(&header, start)?, &lines)
                .ok_or_else(|| unclear(format!("{} names over {} columns", header.len(), header.len() + 1), *at))?
        {
            header.insert(0, Named { role: Role::Skip, unit: None, size: None });
            reasons.push("the first column has no name".to_owned());
        }
        let size = |role: Role| header.iter().find(|named| named.role == role).and_then(|named| named.size);
        if let (Some(width), Some(height)) = (size(Role::X), size(Role::Y)) {
            geometry = geometry.or_else(|| Geometry::new(width, height).ok());
        }

        let named = !header.is_empty();
        let known = match wanted {
            Some(wanted) => {
                reasons.push("the caller says what the columns are".to_owned());
                Some(wanted)
            }
            None if named => Some(from_names(&header, start)?),
            None => None,
        };

        // What the first lines have in their columns.
        let mut seen: Vec<Seen> = Vec::new();
        for (_, line) in lines.iter().filter(|(_, line)| is_row(separator, line, known.as_deref())) {
            for (column, field) in separator.fields(line).take(WIDEST).enumerate() {
                if column == seen.len() {
                    seen.push(Seen::default());
                }
                if let Some(seen) = seen.get_mut(column) {
                    seen.take(field);
                }
            }
        }
        let roles = if let Some(known) = known {
            known
        } else if !seen.is_empty() {
            let (roles, reason) = from_values(&seen, start)?;
            reasons.push(reason);
            roles
        } else if let Some((at, line)) = lines.first() {
            return Err(unclear(looks_like(line), *at));
        } else {
            // Nothing to read: any order will do.
            vec![Role::Time, Role::X, Role::Y, Role::Polarity]
        };
        let column = roles.iter().position(|role| *role == Role::Time).unwrap_or(0);
        let (unit, reason) = if let Some(unit) = options.time_unit {
            (unit, "the caller says the unit of time".to_owned())
        } else if let Some(unit) = header.get(column).and_then(|named| named.unit) {
            (unit, "the name of the time column says its unit".to_owned())
        } else {
            unit_of(seen.get(column).unwrap_or(&Seen::default()))
        };
        reasons.push(reason);
        // A single line without an end may be cut: a problem, not another layout.
        let ended = head.ends_with(b"\n") || lines.len() > 1;
        let layout = Self { roles, separator, unit, start: start as u64, geometry, named, reasons };
        if let Some((at, line)) = lines.first().filter(|_| ended)
            && let Err(why) = values(separator, &layout.roles, unit, line)
            && lines.iter().all(|(_, line)| values(separator, &layout.roles, unit, line).is_err())
        {
            return Err(Error::format("no line is an event")
                .expecting(format!("lines of `{}` between {}", layout.columns(), separator.what()))
                .but_found(format!("{why} in `{}`", shown(line)))
                .at(*at as u64)
                .hint("times and pixels are decimal numbers, polarity is 0, 1, -1, true, false, on, off, + or -; `text_columns` says which column is what"));
        }
        Ok(layout)
    }

    /// The columns in their order.
    pub(crate) fn columns(&self) -> String {
        self.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" ")
    }

    /// What was found out, as text.
    pub(crate) fn metadata(&self) -> Vec<(String, String)> {
        [
            ("columns", self.columns()),
            ("separator", self.separator.name().to_owned()),
            ("time_unit", self.unit.name().to_owned()),
            ("reason", self.reasons.join("; ")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }
}

/// The columns that the caller names.
fn parse_columns(text: &str) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for name in text.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|name| !name.is_empty()) {
        let role = if name == "_" { Role::Skip } else { Named::parse(name.as_bytes()).role };
        if role == Role::Skip && name != "_" || role != Role::Skip && roles.contains(&role) {
            return Err(wrong_columns(text));
        }
        roles.push(role);
    }
    let needed = roles.iter().filter(|role| **role != Role::Skip).count();
    if needed != 4 || roles.len() > WIDEST {
        return Err(wrong_columns(text));
    }
    while roles.last() == Some(&Role::Skip) {
        roles.pop();
    }
    Ok(roles)
}

fn wrong_columns(found: &str) -> Error {
    Error::invalid("`text_columns` is not the order of the columns")
        .expecting("`t`, `x`, `y` and `p` in their order, each once, and `_` for columns to skip")
        .but_found(format!("`{found}`"))
}

/// The columns that names give.
fn from_names(header: &[Named], at: usize) -> Result<Vec<Role>> {
    let mut roles: Vec<Role> = Vec::new();
    for named in header {
        // Of two columns of one meaning the first counts.
        roles.push(if roles.contains(&named.role) { Role::Skip } else { named.role });
    }
    for role in [Role::Time, Role::X, Role::Y, Role::Polarity] {
        if !roles.contains(&role) {
            return Err(unclear(format!("names without a column for `{}`", role.name()), at));
        }
    }
    while roles.last() == Some(&Role::Skip) {
        roles.pop();
    }
    Ok(roles)
}

/// Whether the column without a name, where there is one more than names, is the first and not the last: as which these
/// lines have events, in order of time. `None` if as both.
fn first_has_no_name(separator: Separator, roles: &[Role], lines: &[(usize, &[u8])]) -> Option<bool> {
    let after: Vec<Role> = std::iter::once(Role::Skip).chain(roles.iter().copied()).collect();
    let events = |roles: &[Role]| {
        let pixels = 0..=LARGEST as i64;
        let time = roles.iter().position(|role| *role == Role::Time).unwrap_or(0);
        let mut times = Seen::default();
        for (_, line) in lines {
            if let Ok(values) = values(separator, roles, TimeUnit::Microseconds, line)
                && pixels.contains(&values.x.0)
                && pixels.contains(&values.y.0)
                && let Some(field) = separator.fields(line).nth(time)
            {
                times.take(field);
            }
        }
        (times.values, times.ahead())
    };
    let ((plain, plain_ahead), (shifted, shifted_ahead)) = (events(roles), events(&after));
    // Many more lines, or as many and in order.
    if plain > 2 * shifted || shifted > 2 * plain {
        Some(shifted > plain)
    } else if plain_ahead == shifted_ahead {
        (plain == 0).then_some(false)
    } else {
        Some(shifted_ahead)
    }
}

/// What makes a column that of time, and how to see it.
type Sign<'a> = (&'a str, &'a dyn Fn(&Seen) -> bool);

/// The columns that fit the values.
fn from_values(seen: &[Seen], at: usize) -> Result<(Vec<Role>, String)> {
    use Role::{Polarity, Time, X, Y};
    const ORDERS: [[Role; 4]; 3] = [[Time, X, Y, Polarity], [X, Y, Polarity, Time], [X, Y, Time, Polarity]];
    let [a, b, c, d, ..] = seen else { return Err(unclear(format!("{} columns", seen.len()), at)) };
    let columns = [a, b, c, d];
    let fits = |order: &[Role; 4]| {
        order.iter().zip(columns).all(|(role, column)| match role {
            Time => column.is_numeric(),
            X | Y => column.is_numeric() && !column.is_beyond(),
            _ => column.is_polarity(),
        })
    };
    let time = |order: &[Role; 4]| order.iter().position(|role| *role == Time).and_then(|place| columns.get(place).copied());
    let mut left: Vec<_> = ORDERS.iter().filter(|order| fits(order)).collect();
    // What makes a column that of time, the strongest sign first.
    let signs: [Sign<'_>; 5] = [
        ("no pixel can have its values", &|column| column.is_beyond()),
        ("its values are not whole", &|column| column.has_fractions()),
        ("it has decimals", &|column| column.has_decimals()),
        ("its values go ahead", &|column| column.ahead()),
        ("its values go ahead furthest", &|column| {
            column.ahead() && columns.iter().all(|other| std::ptr::eq(*other, column) || other.range() < column.range())
        }),
    ];
    let mut reason = "only these columns fit the values".to_owned();
    for (sign, is_time) in signs {
        if left.len() < 2 {
            break;
        }
        let with: Vec<_> = left.iter().filter(|order| time(order).is_some_and(is_time)).copied().collect();
        if !with.is_empty() {
            left = with;
            reason = format!("the column of time is told by its values: {sign}");
        }
    }
    match left.as_slice() {
        [order] if time(order).is_some_and(|column| column.ahead() || column.is_beyond() || column.is_seconds()) => {
            Ok((order.to_vec(), reason))
        }
        [] | [_] => Err(unclear("values that fit none of these", at)),
        _ => Err(unclear("values that fit several", at)),
    }
}

/// The unit of these times.
fn unit_of(column: &Seen) -> (TimeUnit, String) {
    let (low, high) = (column.low.unwrap_or(0) / 1_000_000, column.high.unwrap_or(0) / 1_000_000);
    let (unit, why) = if column.is_seconds() {
        (TimeUnit::Seconds, "times have decimals")
    } else if low >= 10_i128.pow(17) {
        (TimeUnit::Nanoseconds, "times are whole numbers of 18 or more digits, as nanoseconds since 1970 are")
    } else if low >= 10_i128.pow(12) && high < 10_i128.pow(13) {
        (TimeUnit::Milliseconds, "times are whole numbers of 13 digits, as milliseconds since 1970 are")
    } else {
        (TimeUnit::Microseconds, "times are whole numbers")
    };
    (unit, format!("{} because {why}", unit.name()))
}
