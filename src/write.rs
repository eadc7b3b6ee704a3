//! Writing recordings: checked rows in, a whole file or none out.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::columns::EventColumns;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::prophesee::writer::{Evt2Encoder, Evt3Encoder, RANGE};
use crate::format::{atis_bin, event_stream, text};
use crate::schema::{Columns, Geometry};
use crate::source::create_partial;

/// Bytes encoded before they are written.
const CHUNK: usize = 1 << 20;

/// Encodes events into bytes.
pub(crate) trait Encoder: Send {
    /// The file header.
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8>;

    /// First time that can be encoded.
    fn start_of_time(&self) -> i64 {
        0
    }

    /// First time after it that cannot be encoded.
    fn end_of_time(&self) -> i64;

    /// Whether times may go back.
    fn in_any_order(&self) -> bool {
        false
    }

    /// Appends the events; their values have been checked.
    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>);
}

/// Writes events to a new recording, batch by batch.
///
/// The file appears under its name only when [`EventWriter::finish`] has succeeded; a writer that is dropped before
/// leaves nothing.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-writer-{}.raw", std::process::id()));
/// use evlib::{EventColumns, EventWriter, Format, Geometry, Recording, Selection};
/// let events = EventColumns::from_slices(&[3, 4], &[5, 5], &[1_000_000, 1_000_001], &[1, -1])?;
/// let mut writer = EventWriter::create(&path, Format::Evt3, Geometry::new(640, 480)?, false)?;
/// writer.write(&events)?;
/// assert_eq!(writer.finish()?, 2);
/// assert_eq!(Recording::open(&path)?.read(&Selection::default())?, events);
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub struct EventWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<File>,
    encoder: Box<dyn Encoder>,
    geometry: Geometry,
    overwrite: bool,
    buffer: Vec<u8>,
    rows: u64,
    last_us: i64,
}

impl EventWriter {
    /// Starts a recording in `format` of a sensor of size `geometry`.
    ///
    /// Written are [`Format::Evt3`], [`Format::Evt2`], [`Format::EventStream`], [`Format::AtisBin`] and
    /// [`Format::Text`], which is CSV where the path ends in `.csv`.
    ///
    /// # Errors
    /// `InvalidArgument` if the format is not written or cannot hold the geometry; `Io` if the file cannot be made,
    /// or is there already and `overwrite` is false.
    pub fn create(path: impl AsRef<Path>, format: Format, geometry: Geometry, overwrite: bool) -> Result<Self> {
        let path = path.as_ref();
        let (encoder, largest): (Box<dyn Encoder>, _) = match format {
            Format::Evt3 => (Box::new(Evt3Encoder::new(geometry)), (RANGE, RANGE)),
            Format::Evt2 => (Box::new(Evt2Encoder::default()), (RANGE, RANGE)),
            Format::EventStream => (Box::new(event_stream::Writer::new(geometry)), (Geometry::MAX, Geometry::MAX)),
            Format::AtisBin => (Box::new(atis_bin::Writer), atis_bin::LARGEST),
            Format::Text => (Box::new(text::Writer::new(path)), (Geometry::MAX, Geometry::MAX)),
            other => {
                return Err(Error::invalid("this format is read but not written")
                    .expecting("`evt3`, `evt2`, `es`, `atis-bin` or `text`")
                    .but_found(format!("`{other}`")));
            }
        };
        if geometry.width() > largest.0 || geometry.height() > largest.1 {
            return Err(Error::invalid("the format cannot hold this sensor geometry")
                .expecting(format!("at most {}x{}", largest.0, largest.1))
                .but_found(geometry.to_string()));
        }
        if path.is_dir() {
            return Err(Error::io(std::io::ErrorKind::IsADirectory.into(), path));
        }
        if !overwrite && path.exists() {
            return Err(Error::io(std::io::ErrorKind::AlreadyExists.into(), path).hint("pass `overwrite=True` to replace it"));
        }
        let (file, partial) = create_partial(path).map_err(|error| Error::io(error, path))?;
        let header = encoder.header(geometry, &date(SystemTime::now()));
        let last_us = encoder.start_of_time();
        let mut writer =
            Self { path: path.to_path_buf(), partial, file: Some(file), encoder, geometry, overwrite, buffer: header, rows: 0, last_us };
        writer.flush()?;
        Ok(writer)
    }

    /// Appends events. All four columns are needed; times must not go back, but in text and ATIS `.bin`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the first row that the format cannot hold: a time that is negative, too large or
    /// before the one in front of it, a pixel outside the geometry, a polarity that is neither 1 nor -1. `Io`.
    pub fn write(&mut self, events: &EventColumns) -> Result<()> {
        if events.columns() != Columns::ALL {
            return Err(Error::invalid("writing needs the columns `x`, `y`, `timestamp` and `polarity`"));
        }
        let (x, y, t, p) = (events.x(), events.y(), events.timestamp(), events.polarity());
        self.check(x, y, t, p)?;
        let mut at = 0;
        while at < events.len() {
            let rows = at..events.len().min(at + CHUNK / 16);
            at = rows.end;
            let (Some(x), Some(y), Some(t), Some(p)) = (x.get(rows.clone()), y.get(rows.clone()), t.get(rows.clone()), p.get(rows)) else {
                break;
            };
            self.encoder.encode(x, y, t, p, &mut self.buffer);
            if self.buffer.len() >= CHUNK {
                self.flush()?;
            }
        }
        self.rows += events.len() as u64;
        self.last_us = t.last().copied().unwrap_or(self.last_us);
        Ok(())
    }

    fn check(&self, x: &[i16], y: &[i16], t: &[i64], p: &[i8]) -> Result<()> {
        let (width, height) = (self.geometry.width(), self.geometry.height());
        let times = self.encoder.start_of_time()..self.encoder.end_of_time();
        let in_order = !self.encoder.in_any_order();
        let mut last = self.last_us;
        for (row, (((x, y), t), p)) in x.iter().zip(y).zip(t).zip(p).enumerate() {
            let fits = times.contains(t)
                && (*t >= last || !in_order)
                && x.cast_unsigned() < width
                && y.cast_unsigned() < height
                && matches!(p, 1 | -1);
            if !fits {
                return Err(self.refuse(self.rows + row as u64, *x, *y, *t, *p, last));
            }
            last = *t;
        }
        Ok(())
    }

    fn refuse(&self, row: u64, x: i16, y: i16, t: i64, p: i8, last: i64) -> Error {
        let (start, end) = (self.encoder.start_of_time(), self.encoder.end_of_time());
        let error = Error::invalid(format!("the recording cannot hold row {row}"));
        if t < start {
            error.expecting(format!("a time of at least {start} us")).but_found(format!("{t} us")).hint("subtract the first time")
        } else if t < last && !self.encoder.in_any_order() {
            error.expecting(format!("times in order, from {last} us on")).but_found(format!("{t} us")).hint("sort by `timestamp`")
        } else if t >= end {
            error.expecting(format!("a time before {end} us")).but_found(format!("{t} us")).hint("subtract the first time")
        } else if !matches!(p, 1 | -1) {
            error.expecting("polarity 1 or -1").but_found(p.to_string())
        } else {
            error.expecting(format!("a pixel of {}", self.geometry)).but_found(format!("x {x}, y {y}"))
        }
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer).map_err(|error| Error::io(error, &self.path))?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Completes the file and gives it its name; returns the number of events written.
    ///
    /// # Errors
    /// `Io`, also if another file has taken the name meanwhile and `overwrite` is false.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()?;
        drop(self.file.take());
        if !self.overwrite && self.path.exists() {
            return Err(Error::io(std::io::ErrorKind::AlreadyExists.into(), &self.path));
        }
        std::fs::rename(&self.partial, &self.path).map_err(|error| Error::io(error, &self.path))?;
        Ok(self.rows)
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        drop(self.file.take());
        // Fails, as it should, after the rename.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// `YYYY-MM-DD HH:MM:SS` in UTC.
fn date(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = ((seconds / 86_400).cast_signed(), seconds % 86_400);
    // Civil date from a day number, counting years from March so that leap days come last
    // (http://howardhinnant.github.io/date_algorithms.html#civil_from_days).
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| date(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_700_000_000), "2023-11-14 22:13:20");
    }
}
