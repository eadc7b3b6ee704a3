//! The header of an NPY file: a Python literal that says type, order and shape.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1.0, 2.0 and 3.0.

use crate::error::{Error, ErrorKind, Result};
use crate::format::array::cell::{Cell, Number};
use crate::schema::TimeUnit;

/// First bytes of a file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes that tell how long the header is.
pub(crate) const START: usize = 12;
/// Most bytes of a header; NumPy itself takes 10000 unless told otherwise.
const LONGEST: usize = 1 << 20;
/// Most levels of a literal.
const LEVELS: usize = 32;

/// What the header of an array says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    pub(crate) dtype: Dtype,
    /// Whether the first index is the one that runs through neighbours.
    pub(crate) fortran: bool,
    /// Claimed by the file.
    pub(crate) shape: Vec<u64>,
}

/// The type of an element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dtype {
    /// A number, with the unit that its type declares.
    Number {
        cell: Cell,
        unit: Option<TimeUnit>,
        name: String,
    },
    Record {
        bytes: usize,
        fields: Vec<Field>,
    },
    Array {
        shape: Vec<usize>,
        base: Box<Dtype>,
    },
    /// Python objects: pickled, never read.
    Objects,
    /// Any other type, by its name.
    Other {
        bytes: usize,
        name: String,
    },
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    /// Name and, if it has one, title.
    pub(crate) names: Vec<String>,
    pub(crate) offset: usize,
    pub(crate) dtype: Dtype,
}

impl Dtype {
    /// Bytes of an element; it fits, as parsing checked.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Number { cell, .. } => cell.number.bytes(),
            Self::Record { bytes, .. } | Self::Other { bytes, .. } => *bytes,
            Self::Array { shape, base } => shape.iter().fold(base.bytes(), |product, extent| product.saturating_mul(*extent)),
            Self::Objects => 8,
        }
    }

    /// Whether some part of it is Python objects.
    pub(crate) fn has_objects(&self) -> bool {
        match self {
            Self::Objects => true,
            Self::Array { base, .. } => base.has_objects(),
            Self::Record { fields, .. } => fields.iter().any(|field| field.dtype.has_objects()),
            Self::Number { .. } | Self::Other { .. } => false,
        }
    }

    /// In words, as NumPy names types.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Number { name, .. } | Self::Other { name, .. } => name.clone(),
            Self::Record { fields, .. } => {
                let fields = fields.iter().map(|field| format!("{} {}", field.names.join("/"), field.dtype.name()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
            Self::Array { shape, base } => format!("{}{shape:?}", base.name()),
            Self::Objects => "Python objects".to_owned(),
        }
    }
}

/// Bytes in front of the data, from the first bytes of a file.
pub(crate) fn length(start: &[u8]) -> Result<usize> {
    let cut = || Error::new(ErrorKind::Truncated, "an NPY file ends inside its header").at(start.len() as u64);
    let &[major, minor] = start.strip_prefix(MAGIC).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
    let rest = start.get(MAGIC.len() + 2..).unwrap_or_default();
    let length = match (major, minor) {
        (1, 0) => MAGIC.len() + 4 + usize::from(u16::from_le_bytes(*rest.first_chunk().ok_or_else(cut)?)),
        (2 | 3, 0) => MAGIC.len() + 6 + u32::from_le_bytes(*rest.first_chunk().ok_or_else(cut)?) as usize,
        _ => {
            return Err(Error::new(ErrorKind::Unsupported, "an NPY file of a version that is not known")
                .expecting("1.0, 2.0 or 3.0")
                .but_found(format!("{major}.{minor}")));
        }
    };
    if length > LONGEST {
        return Err(Error::format("an NPY header is too long")
            .expecting(format!("at most {LONGEST} bytes"))
            .but_found(format!("{length}")));
    }
    Ok(length)
}

/// Parses a whole header, `length` bytes.
pub(crate) fn parse(header: &[u8]) -> Result<Header> {
    let is_first = header.get(MAGIC.len()) == Some(&1);
    let text = header.get(if is_first { 10 } else { 12 }..).unwrap_or_default();
    // Version 3 is UTF-8, the others Latin-1.
    let text: String = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => text.iter().map(|byte| char::from(*byte)).collect(),
    };
    let value = literal(&text).ok_or_else(|| malformed("no Python dict", &text))?;
    let get = |name: &str| value.get(name).ok_or_else(|| malformed(&format!("no `{name}`"), &text));
    let fortran = match get("fortran_order")? {
        Value::Bool(fortran) => *fortran,
        _ => return Err(malformed("`fortran_order` is no bool", &text)),
    };
    let extents = get("shape")?.items().ok_or_else(|| malformed("`shape` is no tuple", &text))?;
    let shape: Option<Vec<u64>> = extents.iter().map(|extent| u64::try_from(extent.integer()?).ok()).collect();
    let shape = shape.ok_or_else(|| malformed("`shape` has something else than numbers", &text))?;
    let dtype = dtype(get("descr")?, 0)?;
    let elements = shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent));
    if elements.and_then(|elements| elements.checked_mul(dtype.bytes() as u64)).is_none_or(|bytes| bytes > i64::MAX as u64) {
        return Err(malformed("its shape is out of range", &text));
    }
    Ok(Header { dtype, fortran, shape })
}

fn malformed(why: &str, text: &str) -> Error {
    let start: String = text.trim_end().chars().take(80).collect();
    Error::format(format!("a malformed NPY header: {why}"))
        .expecting("`{'descr': ..., 'fortran_order': ..., 'shape': ...}`")
        .but_found(format!("`{start}`"))
}

/// The type that a `descr` describes.
fn dtype(descr: &Value, level: usize) -> Result<Dtype> {
    let bad = || Error::format("an NPY type that is not understood").but_found(descr.to_string());
    if level > LEVELS {
        return Err(bad());
    }
    match descr {
        Value::Text(name) => simple(name).ok_or_else(bad),
        Value::List(entries) => {
            let (mut fields, mut offset) = (Vec::new(), 0_usize);
            for entry in entries {
                let (name, rest) = entry.items().and_then(<[Value]>::split_first).ok_or_else(bad)?;
                let (base, shape) = rest.split_first().ok_or_else(bad)?;
                let mut dtype = dtype(base, level + 1)?;
                if let Some(shape) = shape.first() {
                    let extents: Option<Vec<usize>> = match shape {
                        Value::Integer(extent) => Some(vec![usize::try_from(*extent).map_err(|_| bad())?]),
                        shape => shape.items().and_then(|extents| {
                            extents.iter().map(|extent| extent.integer().and_then(|extent| usize::try_from(extent).ok())).collect()
                        }),
                    };
                    dtype = Dtype::Array { shape: extents.ok_or_else(bad)?, base: Box::new(dtype) };
                }
                let names: Option<Vec<String>> = match name {
                    Value::Text(name) => Some(vec![name.clone()]),
                    name => name.items().map(|names| names.iter().rev().filter_map(Value::text).map(str::to_owned).collect()),
                };
                let bytes = dtype.bytes();
                if i32::try_from(bytes).is_err() {
                    return Err(bad());
                }
                fields.push(Field { names: names.ok_or_else(bad)?, offset, dtype });
                offset = offset.checked_add(bytes).filter(|bytes| i32::try_from(*bytes).is_ok()).ok_or_else(bad)?;
            }
            // Padding is entries without a name.
            fields.retain(|field| field.names.iter().any(|name| !name.is_empty()));
            Ok(Dtype::Record { bytes: offset, fields })
        }
        _ => Err(bad()),
    }
}

/// A type by its name, such as `<i8` or `<M8[us]`.
fn simple(name: &str) -> Option<Dtype> {
    let (order, rest) = match name.split_at_checked(1)? {
        (order @ ("<" | ">" | "|" | "="), rest) => (order, rest),
        _ => ("|", name),
    };
    // What "=" means is the writer's secret; nearly all machines are little-endian.
    let big_endian = order == ">";
    let number = |number: Number, unit| Dtype::Number { cell: Cell { number, big_endian }, unit, name: name.to_owned() };
    if rest == "?" {
        return Some(number(Number::U8, None));
    }
    let (kind, size) = rest.split_at_checked(1)?;
    let (digits, unit) = size.split_once('[').map_or((size, None), |(digits, unit)| (digits, unit.strip_suffix(']')));
    let bytes: usize = if digits.is_empty() && kind == "O" { 8 } else { digits.parse().ok()? };
    let other = |bytes: usize| i32::try_from(bytes).is_ok().then(|| Dtype::Other { bytes, name: name.to_owned() });
    match kind {
        "b" if bytes == 1 => Some(number(Number::U8, None)),
        "i" | "u" => Number::integer(bytes, kind == "i").map(|found| number(found, None)).or_else(|| other(bytes)),
        "f" => Number::float(bytes).map(|found| number(found, None)).or_else(|| other(bytes)),
        "M" | "m" if bytes == 8 => {
            // A unit of several, or of days, is no unit of ours.
            match unit.and_then(|unit| TimeUnit::ALL.into_iter().find(|known| known.name() == unit)) {
                Some(unit) => Some(number(Number::Time, Some(unit))),
                None => other(bytes),
            }
        }
        "O" => Some(Dtype::Objects),
        "U" => other(bytes.checked_mul(4)?),
        "S" | "a" | "V" | "c" | "b" | "t" => other(bytes),
        _ => None,
    }
}

/// A Python or JSON literal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

impl Value {
    /// The value of a key of a dict; the last counts, as in Python.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().rev().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Float(value) if value.fract() == 0.0 => Some(*value as i128),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "`{}`", text.chars().take(80).collect::<String>()),
            other => f.write_str(&format!("{other:?}").chars().take(160).collect::<String>()),
        }
    }
}

/// The value that a text is, with blanks around it; `None` if it is none.
pub(crate) fn literal(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let value = parser.value(0)?;
    parser.blanks();
    parser.rest.trim_end_matches('\0').is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    /// Steps over `token`, and blanks in front of it, if it is next.
    fn eat(&mut self, token: &str) -> bool {
        self.blanks();
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn value(&mut self, level: usize) -> Option<Value> {
        if level > LEVELS {
            return None;
        }
        self.blanks();
        for (word, value) in [
            ("None", Value::None),
            ("null", Value::None),
            ("True", Value::Bool(true)),
            ("true", Value::Bool(true)),
            ("False", Value::Bool(false)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Float(f64::NAN)),
        ] {
            if self.eat(word) {
                return Some(value);
            }
        }
        if self.eat("{") {
            let mut entries = Vec::new();
            while !self.eat("}") {
                let key = self.value(level + 1)?;
                if !self.eat(":") {
                    return None;
                }
                entries.push((key, self.value(level + 1)?));
                if !self.eat(",") {
                    return self.eat("}").then_some(Value::Dict(entries));
                }
            }
            return Some(Value::Dict(entries));
        }
        if self.eat("[") {
            return Some(Value::List(self.items("]", level)?.0));
        }
        if self.eat("(") {
            let (mut items, comma) = self.items(")", level)?;
            // Parentheses around one value are no tuple.
            return if items.len() == 1 && !comma { items.pop() } else { Some(Value::Tuple(items)) };
        }
        let quoted = self.rest.trim_start_matches(['u', 'b']);
        if let Some(quote) = quoted.chars().next().filter(|first| matches!(first, '\'' | '"')) {
            self.rest = quoted.get(1..)?;
            return self.text(quote);
        }
        let end =
            self.rest.find(|next: char| !(next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '.'))).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        // Python 2 wrote `4L`.
        let integer = number.strip_suffix('L').unwrap_or(number).parse().map(Value::Integer);
        integer.ok().or_else(|| number.parse().ok().map(Value::Float))
    }

    /// The items up to `end`, and whether a comma follows the last.
    fn items(&mut self, end: &str, level: usize) -> Option<(Vec<Value>, bool)> {
        let mut items = Vec::new();
        let mut comma = false;
        while !self.eat(end) {
            items.push(self.value(level + 1)?);
            comma = self.eat(",");
            if !comma {
                return self.eat(end).then_some((items, false));
            }
        }
        Some((items, comma))
    }

    /// The rest of a text up to its quote.
    fn text(&mut self, quote: char) -> Option<Value> {
        let mut text = String::new();
        let mut letters = self.rest.chars();
        loop {
            match letters.next()? {
                letter if letter == quote => break,
                '\\' => {
                    let letter = match letters.next()? {
                        'x' => hexadecimal(&mut letters, 2)?,
                        'u' => hexadecimal(&mut letters, 4)?,
                        'U' => hexadecimal(&mut letters, 8)?,
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    };
                    text.push(letter);
                }
                letter => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Some(Value::Text(text))
    }
}

/// The letter whose number stands next.
fn hexadecimal(letters: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let digits: String = letters.by_ref().take(digits).collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Header> {
        parse(&[b"\x93NUMPY\x01\x00\x00\x00", text.as_bytes()].concat())
    }

    fn names(dtype: &Dtype) -> Vec<(String, usize)> {
        let Dtype::Record { fields, .. } = dtype else { return Vec::new() };
        fields.iter().map(|field| (format!("{} {}", field.names.join("/"), field.dtype.name()), field.offset)).collect()
    }

    #[test]
    fn literals() {
        assert_eq!(literal("(4L, -3)"), Some(Value::Tuple(vec![Value::Integer(4), Value::Integer(-3)])));
        assert_eq!(literal("(4)"), Some(Value::Integer(4)));
        assert_eq!(literal("(4,)"), Some(Value::Tuple(vec![Value::Integer(4)])));
        assert_eq!(literal("()"), Some(Value::Tuple(vec![])));
        assert_eq!(literal(r"'a\'\x41\u00e9\\' "), Some(Value::Text("a'Aé\\".to_owned())));
        assert_eq!(literal("{\"a\": [1.5, true, null]}").and_then(|value| value.get("a").cloned()).unwrap().items().unwrap().len(), 3);
        for bad in ["", "{", "{'a'}", "('a", "1 2", "{'a': 1", "'\\x4", "[1,,2]", &"[".repeat(1000)] {
            assert_eq!(literal(bad), None, "{bad}");
        }
    }

    #[test]
    fn types() {
        let found = header("{'descr': '>f8', 'fortran_order': True, 'shape': (3, 4), }  \n").unwrap();
        assert_eq!((found.dtype.name(), found.fortran, found.shape), (">f8".to_owned(), true, vec![3, 4]));
        let found = header(
            "{'descr': [('x', '<u2'), ('', '|V2'), (('p', 'on'), '|b1'), ('v', '<f4', (2,))], 'fortran_order': False, 'shape': (7,)}",
        )
        .unwrap();
        assert_eq!(names(&found.dtype), [("x <u2".to_owned(), 0), ("on/p |b1".to_owned(), 4), ("v <f4[2]".to_owned(), 5)]);
        assert_eq!(found.dtype.bytes(), 13);
        let found = header("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': ()}").unwrap();
        assert!(matches!(found.dtype, Dtype::Number { unit: Some(TimeUnit::Nanoseconds), .. }));
        assert!(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}").unwrap().dtype.has_objects());
    }

    #[test]
    fn malformed_headers() {
        for bad in [
            "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904)}",
            "{'descr': '<i8', 'fortran_order': 0, 'shape': (1,)}",
            "{'descr': 'q', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': [('x', '<i8', (4611686018427387904, 64))], 'fortran_order': False, 'shape': (1,)}",
            "{'fortran_order': False, 'shape': (1,)}",
            "[1]",
        ] {
            assert!(header(bad).is_err(), "{bad}");
        }
        assert!(length(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").is_err());
        assert!(length(b"\x93NUMPY\x04\x00\xff\xff").is_err());
        assert!(length(b"\x93NUMPY\x01").is_err());
        assert_eq!(length(b"\x93NUMPY\x01\x00\x76\x00{'").unwrap(), 128);
    }
}
