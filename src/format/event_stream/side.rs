//! What Event Streams have beside brightness changes, or in their place: records that are read one after the other.
//!
//! | type | head | then |
//! |---|---|---|
//! | ATIS | as of events; bit 1: the second threshold; bit 0: 1 | x, y |
//! | colour | time ahead, 0 to 253; 0xFE means nothing, 0xFF is 254 us of silence | x, y, red, green, blue |
//! | AMD | the same | x, y, s, a byte each |
//! | generic | the same | length, 7 bits a byte, lowest first, bit 0 of each: another byte follows; as many bytes |

use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::types::{DurationMicrosecondType, Int16Type, UInt8Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{Atis, Content, Kind, contains, outside};
use crate::columns::record_batch;
use crate::error::{Error, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::no_side_stream;
use crate::recording::StreamKind;
use crate::schema::Geometry;
use crate::side::SideStream;
use crate::source::Source;

/// Bytes read at a time, unless a message is longer, and rows of a batch.
const WINDOW: usize = 1 << 20;
const ROWS: usize = 64 << 10;
/// Longest message, and bytes of messages of a batch.
const LONGEST: usize = 64 << 20;
const BYTES: usize = 8 << 20;

/// What has the bytes of a file.
pub(super) type Readable = dyn AsRef<Source> + Send + Sync;

/// Records that are no brightness changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Exposures,
    Colours,
    Displays,
    Messages,
}

impl Others {
    /// Those that a file of this type has.
    pub(super) const fn of(content: Content) -> Option<Self> {
        match content {
            Content::Dvs => None,
            Content::Atis => Some(Self::Exposures),
            Content::Colour => Some(Self::Colours),
            Content::Amd => Some(Self::Displays),
            Content::Generic => Some(Self::Messages),
        }
    }

    /// Name of the stream.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Exposures => "exposures",
            Self::Colours => "colours",
            Self::Displays => "displays",
            Self::Messages => "messages",
        }
    }

    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Exposures => "ATIS exposure measurements: timestamp, x, y, threshold",
            Self::Colours => "colour events: timestamp, x, y, r, g, b",
            Self::Displays => "events of an asynchronous display: timestamp, x, y, s",
            Self::Messages => "generic events: timestamp, bytes",
        }
    }

    fn schema(self) -> SchemaRef {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
        let mut fields = vec![field("timestamp", DataType::Duration(TimeUnit::Microsecond))];
        if self == Self::Messages {
            fields.push(field("bytes", DataType::Binary));
        } else {
            fields.extend(["x", "y"].map(|name| field(name, DataType::Int16)));
            fields.extend(self.values().iter().map(|name| field(name, DataType::UInt8)));
        }
        Arc::new(Schema::new(fields))
    }

    /// Names of what a pixel has.
    const fn values(self) -> &'static [&'static str] {
        match self {
            Self::Exposures => &["threshold"],
            Self::Colours => &["r", "g", "b"],
            Self::Displays => &["s"],
            Self::Messages => &[],
        }
    }

    /// The step at the start of `bytes`, which are not empty: what it is, and how many bytes it has.
    fn step(self, bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, TooLong> {
        let Some((head, rest)) = bytes.split_first() else { return Ok(None) };
        if self == Self::Exposures {
            if *head >= Atis::ALONE {
                return Ok(Some((Record::Alone(Atis::overflow(*head)), 1)));
            }
            let Some(place) = rest.first_chunk::<4>() else { return Ok(None) };
            let (x, y) = pixel(*place);
            let ahead = i64::from(head >> Atis::SHIFT);
            let record = if Atis::is_event(*head) {
                Record::Alone(ahead)
            } else {
                Record::Pixel { ahead, x, y, values: [1 + u8::from(Atis::is_on(*head)), 0, 0] }
            };
            return Ok(Some((record, 5)));
        }
        if *head >= 0xFE {
            return Ok(Some((Record::Alone(254 * i64::from(head & 1)), 1)));
        }
        let ahead = i64::from(*head);
        Ok(match self {
            Self::Colours => rest.first_chunk::<7>().map(|[a, b, c, d, red, green, blue]| {
                let (x, y) = pixel([*a, *b, *c, *d]);
                (Record::Pixel { ahead, x, y, values: [*red, *green, *blue] }, 8)
            }),
            Self::Displays => {
                rest.first_chunk::<3>().map(|[x, y, s]| (Record::Pixel { ahead, x: (*x).into(), y: (*y).into(), values: [*s, 0, 0] }, 4))
            }
            _ => {
                let (mut len, mut at) = (0_usize, 0);
                loop {
                    let Some(byte) = rest.get(at) else { break None };
                    len |= usize::from(byte >> 1) << (7 * at);
                    at += 1;
                    if byte & 1 == 0 {
                        break rest.get(at..at + len).map(|message| (Record::Message { ahead, message }, 1 + at + len));
                    }
                    if at == 4 || len > LONGEST {
                        return Err(TooLong);
                    }
                }
            }
        })
    }
}

/// A message with a length that none has.
struct TooLong;

fn pixel([x0, x1, y0, y1]: [u8; 4]) -> (u16, u16) {
    (u16::from_le_bytes([x0, x1]), u16::from_le_bytes([y0, y1]))
}

enum Record<'a> {
    /// Nothing but time.
    Alone(i64),
    Pixel {
        ahead: i64,
        x: u16,
        y: u16,
        values: [u8; 3],
    },
    Message {
        ahead: i64,
        message: &'a [u8],
    },
}

/// The stream beside the events that is called `name`.
pub(super) fn open(content: Content, geometry: Option<Geometry>, payload: u64, source: Arc<Readable>, name: &str) -> Result<SideStream> {
    let others = Others::of(content);
    let Some(others) = others.filter(|others| others.name() == name) else {
        let names: Vec<_> = others.into_iter().map(Others::name).collect();
        return Err(no_side_stream(name, &names));
    };
    Ok(SideStream::new(StreamKind::Other, others.schema(), Box::new(Walk::new(others, geometry, payload, source))))
}

/// What is left out of the records of a file of this type.
pub(super) fn problems(content: Content, geometry: Option<Geometry>, payload: u64, source: Arc<Readable>) -> Result<Problems> {
    let Some(others) = Others::of(content) else { return Ok(Problems::default()) };
    let mut walk = Walk::new(others, geometry, payload, source);
    while walk.fill(&mut Rows::default())? {}
    let (offset, len) = (walk.at, (*walk.source).as_ref().len());
    if offset < len {
        let rest = len - offset;
        walk.problems.add(ProblemCode::Truncated, 1, rest, offset, || format!("{rest} bytes of a record at byte {offset}"));
    }
    Ok(walk.problems)
}

/// The records of a file in order.
struct Walk {
    others: Others,
    geometry: Option<Geometry>,
    source: Arc<Readable>,
    at: u64,
    time: i64,
    window: usize,
    problems: Problems,
}

/// Records on their way into columns.
#[derive(Default)]
struct Rows {
    time: Vec<i64>,
    x: Vec<i16>,
    y: Vec<i16>,
    values: [Vec<u8>; 3],
    messages: BinaryBuilder,
}

impl Rows {
    fn is_full(&self) -> bool {
        self.time.len() >= ROWS || self.messages.values_slice().len() >= BYTES
    }

    fn into_record_batch(mut self, others: Others) -> RecordBatch {
        let rows = self.time.len();
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(PrimitiveArray::<DurationMicrosecondType>::from(self.time))];
        if others == Others::Messages {
            arrays.push(Arc::new(self.messages.finish()));
        } else {
            arrays.push(Arc::new(PrimitiveArray::<Int16Type>::from(self.x)));
            arrays.push(Arc::new(PrimitiveArray::<Int16Type>::from(self.y)));
            let values = self.values.into_iter().take(others.values().len());
            arrays.extend(values.map(|values| Arc::new(PrimitiveArray::<UInt8Type>::from(values)) as ArrayRef));
        }
        record_batch(others.schema(), arrays, rows)
    }
}

impl Walk {
    fn new(others: Others, geometry: Option<Geometry>, payload: u64, source: Arc<Readable>) -> Self {
        Self { others, geometry, source, at: payload, time: 0, window: WINDOW, problems: Problems::default() }
    }

    /// Takes the records of the next bytes; false at the end of the file.
    fn fill(&mut self, rows: &mut Rows) -> Result<bool> {
        let source = (*self.source).as_ref();
        let (len, last) = source.stretch(self.at, self.window)?;
        let mut bytes = vec![0; len];
        source.read_exact_at(&mut bytes, self.at)?;
        let (mut at, start) = (0, self.at);
        while !rows.is_full()
            && let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
        {
            let offset = start + at as u64;
            let step = self.others.step(rest).map_err(|TooLong| {
                Error::format("the length of a message is out of range")
                    .expecting(format!("at most {LONGEST} bytes"))
                    .at(offset)
                    .with_path(source.path())
            })?;
            let Some((record, len)) = step else { break };
            match record {
                Record::Alone(ahead) => self.time += ahead,
                Record::Pixel { ahead, x, y, values } => {
                    self.time += ahead;
                    match self.geometry {
                        Some(sensor) if !contains(sensor, x, y) => {
                            self.problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || outside(x, y, sensor, offset));
                        }
                        sensor => {
                            rows.time.push(self.time);
                            rows.x.push(x.cast_signed());
                            rows.y.push(sensor.map_or(y, |sensor| sensor.height() - 1 - y).cast_signed());
                            for (column, value) in rows.values.iter_mut().zip(values) {
                                column.push(value);
                            }
                        }
                    }
                }
                Record::Message { ahead, message } => {
                    self.time += ahead;
                    rows.time.push(self.time);
                    rows.messages.append_value(message);
                }
            }
            at += len;
        }
        self.at += at as u64;
        self.window = WINDOW;
        if at == 0 && !last {
            // A message longer than what was read.
            self.window = (2 * bytes.len()).max(WINDOW);
        } else if at == 0 {
            return Ok(false);
        }
        Ok(true)
    }
}

impl Iterator for Walk {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rows = Rows::default();
        loop {
            match self.fill(&mut rows) {
                Ok(true) if !rows.is_full() => {}
                Ok(_) => break,
                Err(error) => return Some(Err(error)),
            }
        }
        (!rows.time.is_empty()).then(|| Ok(rows.into_record_batch(self.others)))
    }
}
