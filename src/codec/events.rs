//! Events: their columns one after the other, each at a multiple of 64.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `evlibEVT` |
//! | 8..16 | number of events, `u64` |
//! | 16..24, 24..32 | earliest and latest time in microseconds, `i64`; 0 if there are no events |
//! | 32..64 | places in the payload of `timestamp` (i64), `x` (i16), `y` (i16), `polarity` (i8), `u64` each |

use super::{Codec, Encoded, wrong};
use crate::columns::EventColumns;
use crate::error::{Error, Result};
use crate::log::{Payload, WriterOptions};
use crate::schema::{Column, Columns, Geometry};

const NAME: &str = "events";
const MAGIC: [u8; 8] = *b"evlibEVT";
const HEADER: usize = 64;
const ALIGN: usize = 64;
const ORDER: [Column; 4] = [Column::Timestamp, Column::X, Column::Y, Column::Polarity];
/// Key of the metadata that has the size of the sensor.
pub(crate) const GEOMETRY: &str = "geometry";

fn width(column: Column) -> usize {
    match column {
        Column::Timestamp => 8,
        Column::X | Column::Y => 2,
        Column::Polarity => 1,
    }
}

/// Where the columns of a payload are, and their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    /// Earliest and latest time.
    pub(crate) times_us: Option<(i64, i64)>,
    /// Place of each column, in table order.
    offsets: [usize; 4],
}

impl Layout {
    pub(crate) fn of(timestamp: &[i64]) -> Self {
        let first = timestamp.first().copied().unwrap_or(0);
        let times = timestamp.iter().fold((first, first), |(low, high), t| (low.min(*t), high.max(*t)));
        Self::new(timestamp.len(), times)
    }

    /// For so many events, with these earliest and latest times.
    pub(crate) fn new(rows: usize, times_us: (i64, i64)) -> Self {
        let mut offsets = [0; 4];
        let mut at = HEADER;
        for column in ORDER {
            offsets[column as usize] = at;
            at = (at + rows * width(column)).next_multiple_of(ALIGN);
        }
        Self { rows, times_us: (rows > 0).then_some(times_us), offsets }
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(self.rows as u64).to_le_bytes());
        let (first, last) = self.times_us.unwrap_or_default();
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
        for column in ORDER {
            out.extend_from_slice(&(self.offsets[column as usize] as u64).to_le_bytes());
        }
        out
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<Self> {
        let header = payload.first_chunk::<HEADER>().filter(|header| header.starts_with(&MAGIC));
        let header =
            header.ok_or_else(|| wrong(NAME, "64 bytes that start with `evlibEVT`", format!("{} bytes that do not", payload.len())))?;
        let [_, rows, first, last, places @ ..] = header.as_chunks::<8>().0 else { unreachable!("64 bytes are eight words") };
        let word = |word: &[u8; 8]| usize::try_from(u64::from_le_bytes(*word)).unwrap_or(usize::MAX);
        let rows = word(rows);
        let mut offsets = [0; 4];
        for (column, place) in ORDER.into_iter().zip(places) {
            let start = word(place);
            let end = rows.checked_mul(width(column)).and_then(|len| len.checked_add(start));
            if end.is_none_or(|end| end > payload.len()) || !start.is_multiple_of(ALIGN) {
                return Err(wrong(NAME, format!("{rows} values of `{}` within the payload", column.name()), format!("place {start}")));
            }
            offsets[column as usize] = start;
        }
        let times_us = (rows > 0).then(|| (i64::from_le_bytes(*first), i64::from_le_bytes(*last)));
        Ok(Self { rows, times_us, offsets })
    }

    /// The columns of a payload that has this layout; views where it is aligned, else copies.
    pub(crate) fn columns(&self, payload: &Payload, columns: Columns) -> Result<EventColumns> {
        if let Some(view) = EventColumns::view(payload, self.offsets, columns, self.rows) {
            return Ok(view);
        }
        let copy = Payload::from_aligned(payload.bytes());
        EventColumns::view(&copy, self.offsets, columns, self.rows)
            .ok_or_else(|| Error::format("the columns of events do not fit their payload"))
    }
}

/// The codec `events`: batches of events, read back as views of the file.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-events-{}", std::process::id()));
/// use evlib::codec::{Codec, Events};
/// use evlib::log::{Log, Stamp, Verify};
/// let log = Log::new(&dir);
/// let codec = Events::new(Some(evlib::Geometry::new(640, 480)?));
/// let writer = log.writer("camera", &codec.options())?;
/// let events = evlib::EventColumns::from_slices(&[3, 4], &[5, 5], &[10, 20], &[1, -1])?;
/// codec.write(&writer, &events, Stamp::now())?;
/// writer.close()?;
/// assert_eq!(codec.read(&log.channel("camera", Verify::Head)?.get(0)?)?, events);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Events {
    geometry: Option<Geometry>,
}

impl Events {
    /// For events of a sensor of this size.
    #[must_use]
    pub const fn new(geometry: Option<Geometry>) -> Self {
        Self { geometry }
    }
}

impl Codec for Events {
    type Item = EventColumns;
    const NAME: &'static str = NAME;

    fn encode<'a>(&self, item: &'a EventColumns) -> Result<Encoded<'a>> {
        if item.columns() != Columns::ALL {
            return Err(Error::invalid("events have the columns `x`, `y`, `timestamp` and `polarity`"));
        }
        let layout = Layout::of(item.timestamp());
        let mut parts = vec![layout.header().into()];
        let mut at = HEADER;
        for column in ORDER {
            let values = item.bytes_of(column);
            at += values.len();
            parts.push(values.into());
            let fill = at.next_multiple_of(ALIGN) - at;
            parts.push(vec![0; fill].into());
            at += fill;
        }
        parts.pop();
        Ok(Encoded { parts, aligned: 0 })
    }

    fn decode(&self, payload: &Payload) -> Result<EventColumns> {
        Layout::parse(payload.bytes())?.columns(payload, Columns::ALL)
    }

    fn options(&self) -> WriterOptions {
        let options = WriterOptions::new(NAME, Self::VERSION);
        match self.geometry {
            Some(geometry) => options.with_metadata(GEOMETRY, geometry.to_string()),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(rows: usize) -> EventColumns {
        let x: Vec<i16> = (0..rows as i16).collect();
        let t: Vec<i64> = (0..rows as i64).map(|row| 100 - row).collect();
        EventColumns::from_slices(&x, &x, &t, &vec![1; rows]).unwrap()
    }

    #[test]
    fn events_come_back_from_any_place() {
        for rows in [0, 1, 7, 64, 100] {
            let events = events(rows);
            let encoded = Events::default().encode(&events).unwrap();
            let bytes: Vec<u8> = encoded.parts.concat();
            let layout = Layout::parse(&bytes).unwrap();
            assert_eq!(layout, Layout::of(events.timestamp()));
            for shift in 0..3 {
                let mut shifted = vec![0; shift];
                shifted.extend_from_slice(&bytes);
                let payload = Payload::from_vec(shifted).slice(shift..shift + bytes.len()).unwrap();
                assert_eq!(Events::default().decode(&payload).unwrap(), events);
            }
        }
    }

    #[test]
    fn damaged_headers_are_refused_or_within_the_payload() {
        let bytes: Vec<u8> = Events::default().encode(&events(10)).unwrap().parts.concat();
        for bit in 0..HEADER * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _refused_or_read = Events::default().decode(&Payload::from_vec(bytes));
        }
        for len in 0..bytes.len() {
            let _refused_or_read = Events::default().decode(&Payload::from_vec(bytes[..len].to_vec()));
        }
    }
}
