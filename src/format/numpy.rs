//! NPY and NPZ: arrays of NumPy, in a file each, in a zip archive or in a folder, and which of them are events.
//!
//! Arrays are read by position where they lie; only deflated members are decoded whole, when they are first needed.
//! Python objects (pickles) are never read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{Ambiguous, Reader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::{Column, Geometry, TimeUnit};
use crate::source::Source;
use crate::table::TableReader;

use super::array::cell::{Cell, Number, Pixel, Time, Value, Values};
use super::array::{self, ArrayTable, Field, Lazy, Meaning, Part, Storage, names};
use super::{Confidence, Format, Identity, Opened};

mod header;
pub(crate) mod zip;

#[cfg(test)]
mod tests;

use header::{Dtype, Header};
use zip::{Deflated, Member};

/// Members of an archive whose headers are read although their names do not speak of events.
const LOOKED_AT: usize = 256;
/// Files of a folder that are taken for parts of a recording.
const FILES: usize = 64;
/// Entries of a folder that are looked at.
const ENTRIES: usize = 1 << 16;
/// Arrays that are listed one by one.
const LISTED: usize = 24;
/// Rows looked at to tell the order of columns and the unit of floats.
const SAMPLE: u64 = 4096;
/// Rows looked at to tell whether coordinates are pixels.
const PIXEL_SAMPLE: u64 = 1 << 16;
/// Parts of a pixel that HS-ERGB and BS-ERGB count, and the widest of their sensors.
const PARTS: u16 = 32;
const WIDEST: i64 = 1280;
/// More pixels across than any event camera has. BS-ERGB's 970 pixels are 31040 parts.
const PIXELS: i64 = 4096;
/// Most rows of two arrays that have to be merged in memory: 256 MiB.
const MERGED: u64 = 1 << 23;

/// Why arrays with Python objects in them are not read.
const PICKLED: &str =
    "arrays with Python objects are pickled, and pickles run code: they are never loaded; save what is inside them on its own";

/// Whether a file starts as an NPY file does.
pub(crate) fn is_npy(head: &[u8]) -> bool {
    head.starts_with(header::MAGIC)
}

/// Whether a file starts as a zip archive does.
pub(crate) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(zip::MAGIC) || head.starts_with(zip::EMPTY)
}

/// An array, wherever it is.
#[derive(Debug)]
struct Array {
    /// Name without its ending.
    name: String,
    /// Its header, or why it cannot be read.
    header: Result<Header, String>,
    place: Place,
    /// Bytes of data that are there.
    stored: u64,
}

/// Where the data of an array is.
#[derive(Debug, Clone)]
enum Place {
    /// In the file, from this byte on.
    Plain(u64),
    /// In a deflated member, after as many bytes of header.
    Deflated(Arc<Deflated>, usize),
}

/// How the rows of an array lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rows {
    count: u64,
    /// Values of a row.
    width: u64,
    /// Whether all first values come first, then all second ones.
    planar: bool,
}

impl Array {
    fn header(&self) -> Result<&Header> {
        self.header.as_ref().map_err(|why| Error::format(format!("`{}` cannot be read: {why}", self.name)))
    }

    /// The rows; a shape of two dimensions is a table of at most four columns, whichever way round. With Python objects
    /// in it, the array is one pickle: there are no rows to be read.
    fn rows(&self) -> Option<Rows> {
        if self.is_pickled() {
            return None;
        }
        let Ok(Header { shape, fortran, .. }) = &self.header else { return None };
        let rows = |count: u64, width: u64, planar: bool| Some(Rows { count, width, planar: planar && width > 1 });
        let extents: Vec<u64> = match shape.as_slice() {
            [_, 2..=4] => shape.clone(),
            shape => shape.iter().copied().filter(|extent| *extent != 1).collect(),
        };
        match extents.as_slice() {
            [] => rows(1, 1, false),
            [extent] => rows(*extent, 1, false),
            [extent, width @ 2..=4] => rows(*extent, *width, *fortran),
            [width @ 2..=4, extent] => rows(*extent, *width, !*fortran),
            _ => None,
        }
    }

    fn is_pickled(&self) -> bool {
        self.dtype().is_some_and(Dtype::has_objects)
    }

    fn dtype(&self) -> Option<&Dtype> {
        self.header.as_ref().ok().map(|header| &header.dtype)
    }

    /// Its numbers, if it has nothing else.
    fn numbers(&self) -> Option<(Cell, Option<TimeUnit>)> {
        match self.dtype()? {
            Dtype::Number { cell, unit, .. } => Some((*cell, *unit)),
            _ => None,
        }
    }

    /// The last part of its name.
    fn base(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// What it is, in words.
    fn describe(&self) -> String {
        let header = match &self.header {
            Ok(header) => header,
            Err(why) => return why.clone(),
        };
        let shape: Vec<_> = header.shape.iter().map(u64::to_string).collect();
        let order = if header.fortran && header.shape.len() > 1 { ", Fortran order" } else { "" };
        let packed = if matches!(self.place, Place::Deflated(..)) { ", deflated" } else { "" };
        format!("{} ({}){order}{packed}", header.dtype.name(), shape.join(" x "))
    }
}

/// The arrays of a file, an archive or a folder.
struct Arrays {
    source: Arc<Source>,
    list: Vec<Array>,
    /// Members that are no arrays.
    others: Vec<Stream>,
    /// Size of the sensor, where something beside the arrays says it.
    geometry: Option<Geometry>,
}

/// An event column in an array.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pick {
    array: usize,
    column: Column,
    cell: Cell,
    /// The unit of times that the type declares.
    unit: Option<TimeUnit>,
    /// Bytes from the start of the element.
    offset: usize,
    /// Column of the array.
    at: u64,
}

/// Where the columns of a stream of events are.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Picks(Vec<Pick>),
    /// A table whose order is seen in its values.
    Table(usize),
    /// One table for each polarity: the brighter one, the darker one.
    Merged(usize, usize),
}

/// A stream of events that was found.
#[derive(Debug, Clone)]
struct Camera {
    name: String,
    /// The layout, as the documentation calls it.
    layout: &'static str,
    found: Found,
    /// Unit of times, where the layout says it.
    unit: Option<TimeUnit>,
}

/// What an array has by its name: one column, or x and y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    One(Column),
    Pixels,
}

fn role(name: &str) -> Option<Role> {
    match name.to_ascii_lowercase().as_str() {
        "xy" | "xys" => Some(Role::Pixels),
        name => names::column(name).map(Role::One),
    }
}

/// The role that a name ends with, and what stands in front of it.
fn split_name(name: &str) -> Option<(&str, Role)> {
    let start = name.rfind(['/', '_', '-', '.']).map_or(0, |at| at + 1);
    let (prefix, last) = name.split_at_checked(start)?;
    Some((prefix, role(last)?))
}

/// The header of an array whose file starts at `start` and has `len` bytes; also the bytes in front of its data.
fn read_header(source: &Source, start: u64, len: u64) -> Result<(Header, u64)> {
    let mut head = vec![0; (header::START as u64).min(len) as usize];
    source.read_exact_at(&mut head, start)?;
    let length = header::length(&head).map_err(|error| error.at(start))?;
    if length as u64 > len {
        return Err(Error::new(ErrorKind::Truncated, "an NPY file ends inside its header")
            .expecting(format!("{length} bytes"))
            .but_found(format!("{len}"))
            .at(start));
    }
    head.resize(length, 0);
    source.read_exact_at(&mut head, start)?;
    Ok((header::parse(&head).map_err(|error| error.at(start))?, length as u64))
}

/// An array that lies in the file from `start` on.
fn plain(source: &Source, name: String, start: u64, len: u64) -> Array {
    match read_header(source, start, len) {
        Ok((header, length)) => Array { name, header: Ok(header), place: Place::Plain(start + length), stored: len - length },
        Err(error) => Array { name, header: Err(error.to_string()), place: Place::Plain(start), stored: 0 },
    }
}

/// An array in a deflated member.
fn deflated(name: String, member: Arc<Deflated>) -> Array {
    let header = member.head(1 << 12).and_then(|mut head| {
        let length = header::length(&head)?;
        if head.len() < length {
            head = member.head(length)?;
        }
        let head = head.get(..length).ok_or_else(|| Error::new(ErrorKind::Truncated, "an NPY file ends inside its header"))?;
        Ok((header::parse(head)?, length))
    });
    match header {
        Ok((header, length)) => {
            let stored = member.size.saturating_sub(length as u64);
            Array { name, header: Ok(header), place: Place::Deflated(member, length), stored }
        }
        Err(error) => Array { name, header: Err(error.to_string()), place: Place::Deflated(member, 0), stored: 0 },
    }
}

/// Opens an NPY file, with the files beside it that have its other columns.
pub(crate) fn open_npy(source: Source, options: &OpenOptions) -> Result<Opened> {
    let path = source.path().to_path_buf();
    let head = source.head(header::START)?;
    if !is_npy(&head) {
        // Columns without headers, one file each.
        let folder = path.parent().filter(|_| split_name(&stem(&path)).is_some());
        if let Some(opened) = folder.map(|folder| open_folder(folder, options)).transpose()?.flatten() {
            return Ok(opened);
        }
        return Err(Error::format("not an NPY file").expecting("`\\x93NUMPY` at its start").but_found(super::looks_like(&head)));
    }
    let len = source.len();
    // A header that cannot be read is this file's own error.
    read_header(&source, 0, len)?;
    let array = plain(&source, stem(&path), 0, len);
    let is_column = split_name(&array.name).is_some() && array.numbers().is_some() && array.rows().is_some_and(|rows| rows.width < 3);
    let arrays = Arrays { source: Arc::new(source), list: vec![array], others: Vec::new(), geometry: None };
    let reasons = vec!["NPY signature".to_owned()];
    if is_column && options.path_map.is_empty() {
        let own = arrays.list.first().and_then(|array| split_name(&array.name)).map_or("", |(prefix, _)| prefix).to_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = |name: &str| split_name(name).is_some_and(|(prefix, _)| prefix == own);
        if let Some(folder) = folder_arrays(folder, &path, beside)? {
            return open(&folder, Format::Npy, reasons, options);
        }
    }
    open(&arrays, Format::Npy, reasons, options)
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Opens a folder whose files are columns; `None` if it has none.
pub(crate) fn open_folder(folder: &Path, options: &OpenOptions) -> Result<Option<Opened>> {
    if options.format.is_some_and(|format| format != Format::Npy) {
        return Ok(None);
    }
    let wanted = |name: &str| split_name(name).is_some() || name.to_ascii_lowercase().contains("event");
    let Some(arrays) = folder_arrays(folder, folder, wanted)? else { return Ok(None) };
    let count = arrays.list.len();
    open(&arrays, Format::Npy, vec![format!("a folder of {count} NPY files with columns of events")], options).map(Some)
}

/// The arrays of a folder whose names are wanted.
fn folder_arrays(folder: &Path, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Option<Arrays>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut files: Vec<PathBuf> = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(error, folder))?;
    for entry in entries.take(ENTRIES) {
        let file = entry.map_err(|error| Error::io(error, folder))?.path();
        let is_npy = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
        if is_npy && wanted(&stem(&file)) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    if files.len() > FILES {
        return Err(Error::invalid("a folder of too many files to be one recording")
            .expecting(format!("at most {FILES} NPY files of events"))
            .but_found(format!("{}", files.len()))
            .hint("open the files themselves: a list of them, or a pattern such as `folder/*.npy`"));
    }
    files.sort();
    let (source, starts) = Source::open_joined(path, &files)?;
    let mut list = Vec::new();
    for (at, (file, start)) in files.iter().zip(&starts).enumerate() {
        let len = starts.get(at + 1).copied().unwrap_or(source.len()) - start;
        let mut magic = [0; 6];
        let is_npy = len >= 6 && source.read_exact_at(&mut magic, *start).is_ok() && is_npy(&magic);
        list.push(if is_npy { plain(&source, stem(file), *start, len) } else { bare(stem(file), *start, len) });
    }
    // `event_utils` writes width and height beside the columns.
    let geometry = std::fs::read(folder.join("metadata.json")).ok().filter(|text| text.len() < 1 << 20).and_then(|text| {
        let value = header::literal(std::str::from_utf8(&text).ok()?)?;
        let [height, width, ..] = value.get("sensor_resolution")?.items()? else { return None };
        Geometry::new(u32::try_from(width.integer()?).ok()?, u32::try_from(height.integer()?).ok()?).ok()
    });
    Ok(Some(Arrays { source: Arc::new(source), list, others: Vec::new(), geometry }))
}

/// A column without a header, as `event_utils` writes them: t f8 in seconds, xy i2, p u1.
fn bare(name: String, start: u64, len: u64) -> Array {
    let number = match role(&name) {
        Some(Role::One(Column::Timestamp)) => Some((Number::F64, "f8", 1)),
        Some(Role::One(Column::Polarity)) => Some((Number::U8, "u1", 1)),
        Some(Role::Pixels) => Some((Number::I16, "i2", 2)),
        _ => None,
    };
    let Some((number, kind, width)) = number else {
        return Array { name, header: Err("no NPY signature".to_owned()), place: Place::Plain(start), stored: 0 };
    };
    let dtype = Dtype::Number { cell: Cell { number, big_endian: false }, unit: None, name: format!("<{kind}, without header") };
    let header = Header { dtype, fortran: false, shape: vec![len / (number.bytes() as u64 * width), width] };
    Array { name, header: Ok(header), place: Place::Plain(start), stored: len }
}

/// Opens a zip archive of arrays.
pub(crate) fn open_npz(source: Source, options: &OpenOptions) -> Result<Opened> {
    let source = Arc::new(source);
    let entries = zip::entries(&source)?;
    let is_array = |name: &str| name.to_ascii_lowercase().ends_with(".npy");
    let arrays = entries.iter().filter(|entry| is_array(&entry.name)).count();
    if arrays == 0 {
        let names: Vec<_> = entries.iter().take(LISTED).map(|entry| format!("`{}`", entry.name)).collect();
        return Err(Error::format("a zip archive without arrays of NumPy")
            .expecting("members named `.npy`")
            .but_found(if names.is_empty() { "no members".to_owned() } else { names.join(", ") }));
    }
    let (mut list, mut others) = (Vec::new(), Vec::new());
    for entry in &entries {
        let name = entry.name.get(..entry.name.len().saturating_sub(4)).filter(|_| is_array(&entry.name));
        let Some(name) = name else {
            others.push(Stream::new(&entry.name, StreamKind::Other, format!("{} bytes", entry.size), None));
            continue;
        };
        let base = name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let telling = split_name(name).is_some() || base.contains("event") || matches!(base.as_str(), "pos" | "neg" | "width" | "height");
        let wanted = options.path_map.iter().any(|(_, path)| path.trim_start_matches('/').starts_with(name));
        if arrays > LOOKED_AT && !telling && !wanted {
            others.push(Stream::new(name, kind_of(name), format!("{} bytes", entry.size), None));
            continue;
        }
        list.push(match zip::member(&source, entry) {
            Ok(Member::Stored { start, bytes }) => plain(&source, name.to_owned(), start, bytes),
            Ok(Member::Deflated(member)) => deflated(name.to_owned(), member),
            Err(error) => Array { name: name.to_owned(), header: Err(error.to_string()), place: Place::Plain(0), stored: 0 },
        });
    }
    let mut arrays = Arrays { source, list, others, geometry: None };
    arrays.geometry = arrays.size_members();
    open(&arrays, Format::Npz, vec!["zip archive with arrays of NumPy".to_owned()], options)
}

/// Opens the events among some arrays.
fn open(arrays: &Arrays, format: Format, mut reasons: Vec<String>, options: &OpenOptions) -> Result<Opened> {
    options.refuse_text_options()?;
    let cameras = if options.path_map.is_empty() { arrays.cameras() } else { vec![arrays.mapped(&options.path_map)?] };
    if cameras.is_empty() {
        return Err(arrays.no_events(format));
    }
    reasons.extend(cameras.iter().take(LISTED).map(|camera| format!("{}: {}", camera.layout, arrays.places(&camera.found))));
    let mut streams: Vec<Stream> = cameras
        .iter()
        .map(|camera| Stream::new(&camera.name, StreamKind::Events, arrays.places(&camera.found), arrays.count(&camera.found)))
        .collect();
    let used: Vec<usize> = cameras.iter().flat_map(|camera| members(&camera.found)).collect();
    for (at, array) in arrays.list.iter().enumerate() {
        if !used.contains(&at) {
            let rows = array.header.as_ref().ok().and_then(|header| header.shape.first().copied());
            streams.push(Stream::new(&array.name, kind_of(&array.name), array.describe(), rows));
        }
    }
    let left = arrays.others.len().saturating_sub(LISTED);
    streams.extend(arrays.others.iter().take(LISTED).cloned());
    if left > 0 {
        streams.push(Stream::new("...", StreamKind::Other, format!("{left} more members"), None));
    }
    let mut metadata = vec![("layout".to_owned(), cameras.first().map_or("", |camera| camera.layout).to_owned())];
    let geometry = options.geometry.or(arrays.geometry);
    let chosen = match &options.stream {
        Some(name) => Some(cameras.iter().find(|camera| camera.name == *name).ok_or_else(|| unknown_stream(name, &cameras))?),
        None if cameras.len() == 1 => cameras.first(),
        None => None,
    };
    let identity = |reasons| Identity { format, confidence: Confidence::Certain, reasons };
    let Some(camera) = chosen else {
        let names = cameras.iter().map(|camera| camera.name.clone()).collect();
        let reader: Arc<dyn Reader> = Arc::new(Ambiguous::new(names));
        return Ok(Opened { identity: identity(reasons), geometry, metadata, streams, reader });
    };
    for member in members(&camera.found) {
        metadata.extend(arrays.list.get(member).map(|array| (array.name.clone(), array.describe())));
    }
    let (table, found) = arrays.table(camera, geometry, options)?;
    metadata.extend(found);
    Ok(Opened { identity: identity(reasons), geometry, metadata, streams, reader: Arc::new(TableReader::new(table)) })
}

/// The arrays of a stream, each once.
fn members(found: &Found) -> Vec<usize> {
    match found {
        Found::Picks(picks) => {
            let mut members: Vec<usize> = Vec::new();
            for pick in picks {
                if !members.contains(&pick.array) {
                    members.push(pick.array);
                }
            }
            members
        }
        Found::Table(array) => vec![*array],
        Found::Merged(brighter, darker) => vec![*brighter, *darker],
    }
}

impl Arrays {
    fn array(&self, at: usize) -> Result<&Array> {
        self.list.get(at).ok_or_else(|| Error::invalid("no such array"))
    }

    /// The streams of events.
    fn cameras(&self) -> Vec<Camera> {
        let mut found = self.groups();
        for (at, array) in self.list.iter().enumerate() {
            let is_event = array.base().to_ascii_lowercase().contains("event");
            let (layout, found_in) = match array.dtype() {
                Some(Dtype::Record { .. }) => ("records", self.record(at).map(Found::Picks)),
                Some(Dtype::Number { .. }) if is_event => ("table", self.is_table(at).then_some(Found::Table(at))),
                _ => continue,
            };
            let Some(found_in) = found_in else { continue };
            // Recordings of the CARLA simulator, whose clock counts nanoseconds.
            let is_carla = array.base() == "dvs_events" && matches!(found_in, Found::Picks(_));
            found.push(Camera {
                name: camera_name(&array.name),
                layout: if is_carla { "SEVD" } else { layout },
                found: found_in,
                unit: is_carla.then_some(TimeUnit::Nanoseconds),
            });
        }
        found.extend(self.merged());
        if found.is_empty() {
            let tables = (0..self.list.len()).filter(|at| self.is_table(*at));
            found.extend(tables.filter_map(|at| {
                let name = camera_name(&self.list.get(at)?.name);
                Some(Camera { name, layout: "table", found: Found::Table(at), unit: None })
            }));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Arrays named like the columns of events, with the same in front of that.
    fn groups(&self) -> Vec<Camera> {
        let mut groups: BTreeMap<&str, Vec<(Role, usize)>> = BTreeMap::new();
        for (at, array) in self.list.iter().enumerate() {
            let (Some(_), Some(rows), Some((prefix, role))) = (array.numbers(), array.rows(), split_name(&array.name)) else { continue };
            if rows.width == if role == Role::Pixels { 2 } else { 1 } {
                groups.entry(prefix).or_default().push((role, at));
            }
        }
        let mut found = Vec::new();
        for (prefix, members) in groups {
            let get = |column: Column| {
                // Of several names the one that is listed first.
                let known = names::NAMES.iter().find(|(known, _)| *known == column).map_or(&[][..], |(_, names)| *names);
                let own = |array: usize| known.iter().position(|name| self.list.get(array).is_some_and(|array| array.name.ends_with(name)));
                let named = members.iter().filter(|(role, _)| *role == Role::One(column)).min_by_key(|(_, array)| own(*array));
                let pixels =
                    || members.iter().find(|(role, _)| *role == Role::Pixels && column != Column::Timestamp && column != Column::Polarity);
                let (role, array) = named.or_else(pixels)?;
                let (cell, unit) = self.list.get(*array)?.numbers()?;
                let at = u64::from(*role == Role::Pixels && column == Column::Y);
                Some(Pick { array: *array, column, cell, unit, offset: 0, at })
            };
            let Some(picks) = Column::ALL.into_iter().map(get).collect::<Option<Vec<Pick>>>() else { continue };
            let is_bare =
                picks.iter().any(|pick| self.list.get(pick.array).is_some_and(|array| array.describe().contains("without header")));
            let layout = match prefix {
                _ if is_bare => "event_utils memmap",
                "dataset_events_" => "EVIMO2",
                _ => "x, y, t, p",
            };
            let name = prefix.trim_end_matches(['/', '_', '-', '.']);
            let name = if name.is_empty() { "events" } else { name };
            found.push(Camera { name: name.to_owned(), layout, found: Found::Picks(picks), unit: None });
        }
        found
    }

    /// The event columns of records.
    fn record(&self, at: usize) -> Option<Vec<Pick>> {
        let array = self.list.get(at)?;
        let Some(Dtype::Record { fields, .. }) = array.dtype() else { return None };
        if array.rows()?.width != 1 {
            return None;
        }
        let mut picks = Vec::new();
        collect_fields(fields, 0, at, &mut picks);
        Column::ALL.into_iter().map(|column| picks.iter().find(|pick| pick.column == column).copied()).collect()
    }

    /// Whether an array is a table of four columns of numbers.
    fn is_table(&self, at: usize) -> bool {
        let array = self.list.get(at);
        array.is_some_and(|array| {
            let plain = array.numbers().is_some_and(|(cell, _)| cell.number != Number::Time);
            plain && array.rows().is_some_and(|rows| rows.width == 4)
        })
    }

    /// Tables `pos` and `neg`, as ES-ImageNet has them.
    fn merged(&self) -> Option<Camera> {
        let get = |name: &str| {
            self.list.iter().position(|array| {
                let rows = array.rows().filter(|rows| rows.width == 3);
                array.base() == name && array.numbers().is_some() && rows.is_some()
            })
        };
        let found = Found::Merged(get("pos")?, get("neg")?);
        Some(Camera { name: "events".to_owned(), layout: "ES-ImageNet", found, unit: None })
    }

    /// The stream that the caller's paths describe.
    fn mapped(&self, paths: &[(String, String)]) -> Result<Camera> {
        let mut picks = Vec::new();
        let mut whole = None;
        for (name, path) in paths {
            let unknown = || {
                let error = Error::invalid(format!("`path_map` names no array for `{name}`"))
                    .expecting("an array, `array/field`, or `array/0` for the first column of a table")
                    .but_found(format!("`{path}`"));
                if self.list.iter().any(Array::is_pickled) { error.hint(PICKLED) } else { error }
            };
            match names::column(name) {
                Some(column) => picks.push(self.pick(path, column).ok_or_else(unknown)?),
                None if name == "events" => whole = Some(self.named(path).ok_or_else(unknown)?),
                None => {
                    return Err(Error::invalid("`path_map` names an unknown column")
                        .expecting("`x`, `y`, `timestamp`, `polarity` or `events`")
                        .but_found(format!("`{name}`")));
                }
            }
        }
        let found = match whole {
            Some(at) if picks.is_empty() => {
                let table = self.is_table(at).then_some(Found::Table(at));
                self.record(at).map(Found::Picks).or(table).ok_or_else(|| {
                    let found = self.list.get(at).map(Array::describe).unwrap_or_default();
                    Error::invalid("`path_map` names an array that is no table of events")
                        .expecting("records with fields x, y, t and p, or four columns")
                        .but_found(found)
                })?
            }
            Some(_) => return Err(Error::invalid("`path_map` has `events` and single columns: give one or the other")),
            None => {
                if let Some(missing) = Column::ALL.into_iter().find(|column| !picks.iter().any(|pick| pick.column == *column)) {
                    return Err(
                        Error::invalid("`path_map` does not have all columns").expecting(format!("a path for `{}`", missing.name()))
                    );
                }
                Found::Picks(picks)
            }
        };
        Ok(Camera { name: "events".to_owned(), layout: "as the caller says", found, unit: None })
    }

    /// The array of that name, with or without its ending.
    fn named(&self, path: &str) -> Option<usize> {
        let path = path.trim_start_matches('/');
        let plain = path.strip_suffix(".npy").unwrap_or(path);
        self.list.iter().position(|array| array.name == plain || array.name == path)
    }

    /// An array, a field of its records or a column of it; of a single array the name may be left out.
    fn pick(&self, path: &str, column: Column) -> Option<Pick> {
        // A file of records may have the name of one of its fields.
        let whole = self.named(path).and_then(|array| {
            let found = self.list.get(array)?;
            let (cell, unit) = found.numbers().filter(|_| found.rows().is_some_and(|rows| rows.width == 1))?;
            Some(Pick { array, column, cell, unit, offset: 0, at: 0 })
        });
        if whole.is_some() {
            return whole;
        }
        let (array, part) = match path.rsplit_once('/') {
            Some((array, part)) => (self.named(array)?, part),
            None if self.list.len() == 1 => (0, path),
            None => return None,
        };
        let found = self.list.get(array)?;
        let rows = found.rows()?;
        match found.dtype()? {
            Dtype::Number { cell, unit, .. } => {
                let at = part.parse().ok().filter(|at| *at < rows.width)?;
                Some(Pick { array, column, cell: *cell, unit: *unit, offset: 0, at })
            }
            Dtype::Record { fields, .. } if rows.width == 1 => {
                let field = fields.iter().find(|field| field.names.iter().any(|name| name == part))?;
                let Dtype::Number { cell, unit, .. } = &field.dtype else { return None };
                Some(Pick { array, column, cell: *cell, unit: *unit, offset: field.offset, at: 0 })
            }
            _ => None,
        }
    }

    /// Rows of a stream, as its arrays claim.
    fn count(&self, found: &Found) -> Option<u64> {
        let rows = members(found).into_iter().filter_map(|at| Some(self.list.get(at)?.rows()?.count));
        match found {
            Found::Merged(..) => rows.reduce(u64::saturating_add),
            _ => rows.min(),
        }
    }

    /// Where a stream is, in words.
    fn places(&self, found: &Found) -> String {
        let names: Vec<_> = members(found).into_iter().filter_map(|at| Some(self.list.get(at)?.name.as_str())).collect();
        names.join(", ")
    }

    /// The stored parts of an array with some columns in it.
    fn parts(&self, picks: &[Pick], notes: &mut Problems) -> Result<Vec<Part>> {
        let Some(first) = picks.first() else { return Ok(Vec::new()) };
        let array = self.array(first.array)?;
        let header = array.header()?;
        let rows = array.rows().ok_or_else(|| bad_shape(array))?;
        let element = header.dtype.bytes();
        let item = element as u64;
        if item == 0 || picks.iter().any(|pick| pick.offset + pick.cell.number.bytes() > element || pick.at >= rows.width) {
            return Err(bad_shape(array));
        }
        // Fits, as the header was checked.
        let plane = rows.count * item;
        let width = if rows.planar { 1 } else { rows.width };
        let row_bytes = element * width as usize;
        let mut least = rows.count;
        let mut part = |fields: Vec<Field>, start: u64| {
            let stored = (array.stored.saturating_sub(start) / row_bytes as u64).min(rows.count);
            least = least.min(stored);
            let storage = match &array.place {
                Place::Plain(data) => Storage::Plain(data + start),
                Place::Deflated(member, header) => {
                    let bytes: Arc<dyn Lazy> = Arc::clone(member) as _;
                    Storage::Lazy(bytes, header.saturating_add(usize::try_from(start).unwrap_or(usize::MAX)))
                }
            };
            Part { name: array.name.clone(), rows: stored, row_bytes, element, fields, storage }
        };
        let field = |pick: &Pick, at: u64| Field { column: pick.column, cell: pick.cell, offset: pick.offset + at as usize * element };
        let parts = if rows.planar {
            picks.iter().map(|pick| part(vec![field(pick, 0)], pick.at * plane)).collect()
        } else {
            vec![part(picks.iter().map(|pick| field(pick, pick.at)).collect(), 0)]
        };
        notes.add(ProblemCode::Unreadable, rows.count - least, 0, 0, || {
            format!("`{}` has {} rows by its header, but only {least} are there", array.name, rows.count)
        });
        Ok(parts)
    }

    /// The parts of several arrays.
    fn all_parts(&self, picks: &[Pick], notes: &mut Problems) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for member in members(&Found::Picks(picks.to_vec())) {
            let own: Vec<Pick> = picks.iter().filter(|pick| pick.array == member).copied().collect();
            parts.extend(self.parts(&own, notes)?);
        }
        Ok(parts)
    }

    /// Values of the first rows of a column: integers as they are, floats in millionths unless `whole`.
    fn sample(&self, pick: Pick, rows: u64, unit: TimeUnit) -> Result<Vec<i64>> {
        let mut parts = self.parts(&[Pick { column: Column::Timestamp, ..pick }], &mut Problems::default())?;
        for part in &mut parts {
            part.rows = part.rows.min(rows);
            // Only the start of a deflated member is decoded for that.
            if let (Storage::Lazy(_, start), Place::Deflated(member, header)) = (&part.storage, &self.array(pick.array)?.place)
                && start == header
            {
                let head = member.head(start.saturating_add(part.rows as usize * part.row_bytes))?;
                let bytes = head.get(*start..).unwrap_or_default();
                part.rows = part.rows.min((bytes.len() / part.row_bytes) as u64);
                part.storage = Storage::Memory(bytes.into());
            }
        }
        array::sample(&self.source, parts, rows, unit)
    }

    /// The order of a table's columns, told by their values.
    fn order(&self, at: usize) -> Result<Vec<Pick>> {
        let array = self.array(at)?;
        let (cell, unit) = array.numbers().ok_or_else(|| bad_shape(array))?;
        let pick = |column: Column, at_column: usize| Pick { array: at, column, cell, unit, offset: 0, at: at_column as u64 };
        let told = array::tell_order(cell.number, |column, unit| self.sample(pick(Column::Timestamp, column), SAMPLE, unit))?;
        let columns = told.map_err(|why| {
            Error::format(format!("the columns of `{}` cannot be told: {}", array.name, why.text()))
                .expecting("one column of growing times and one of two polarities")
                .but_found(array.describe())
                .hint("say which is which: `path_map={\"timestamp\": \"NAME/0\", \"x\": \"NAME/1\", \"y\": \"NAME/2\", \"polarity\": \"NAME/3\"}`, without `NAME/` for an NPY file")
        })?;
        Ok(columns.into_iter().enumerate().map(|(at, column)| pick(column, at)).collect())
    }

    /// The table of a stream's events, and what there is to say of it.
    fn table(&self, camera: &Camera, geometry: Option<Geometry>, options: &OpenOptions) -> Result<(ArrayTable, Vec<(String, String)>)> {
        let mut notes = Problems::default();
        let mut about = Vec::new();
        let mut layout_unit = camera.unit;
        let (picks, parts) = match &camera.found {
            Found::Picks(picks) => (picks.clone(), self.all_parts(picks, &mut notes)?),
            Found::Table(at) => {
                let picks = self.order(*at)?;
                let columns: Vec<_> = picks.iter().map(|pick| pick.column.name()).collect();
                about.push(("columns".to_owned(), columns.join(", ")));
                // The copies of DVS-Gesture: x, y, polarity, milliseconds.
                if picks.get(3).is_some_and(|pick| pick.column == Column::Timestamp)
                    && picks.get(2).is_some_and(|pick| pick.column == Column::Polarity)
                {
                    layout_unit = Some(TimeUnit::Milliseconds);
                }
                let parts = self.all_parts(&picks, &mut notes)?;
                (picks, parts)
            }
            Found::Merged(brighter, darker) => (Vec::new(), vec![self.merge(*brighter, *darker, &mut notes)?]),
        };
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        if let (Some(least), Some(most)) = (rows.iter().min(), rows.iter().max())
            && least != most
        {
            let longest = parts.iter().max_by_key(|part| part.rows).map_or("", |part| part.name.as_str());
            notes.add(ProblemCode::LengthMismatch, most - least, 0, 0, || format!("`{longest}` has {most} rows, another column {least}"));
        }
        let time = picks.iter().find(|pick| pick.column == Column::Timestamp);
        let (unit, why) = match (options.time_unit, time.and_then(|time| time.unit), layout_unit, time) {
            // What has fractions counts seconds, whatever the order of the columns.
            (None, None, Some(TimeUnit::Milliseconds), Some(time)) if time.cell.number.is_float() => match self.tell_unit(*time)? {
                (TimeUnit::Seconds, why) => (TimeUnit::Seconds, why),
                _ => (TimeUnit::Milliseconds, None),
            },
            (Some(unit), ..) | (None, Some(unit), ..) | (None, None, Some(unit), _) => (unit, None),
            (None, None, None, Some(time)) => self.tell_unit(*time)?,
            (None, None, None, None) => (TimeUnit::Microseconds, None),
        };
        let offset_us = options.time_offset_us.unwrap_or(0);
        let parts_of_pixel = match options.pixel_parts {
            Some(parts) => parts,
            None => self.pixel_parts(&picks, geometry)?,
        };
        let pixel = |limit: Option<u16>| Pixel { parts: parts_of_pixel.max(1), first: 0, limit: limit.unwrap_or(Geometry::MAX) };
        let meaning =
            Meaning { time: Time { unit, offset_us }, x: pixel(geometry.map(Geometry::width)), y: pixel(geometry.map(Geometry::height)) };
        about.push(("time_unit".to_owned(), unit.name().to_owned()));
        about.extend(why.map(|why| ("time_unit_reason".to_owned(), why.to_owned())));
        about.push(("time_offset_us".to_owned(), offset_us.to_string()));
        if parts_of_pixel != 1 {
            let why = if options.pixel_parts.is_some() { "as the caller says" } else { "coordinates too large for pixels" };
            about.push(("pixel_parts".to_owned(), format!("{parts_of_pixel} ({why})")));
        }
        let mut table = ArrayTable::new(Arc::clone(&self.source), parts, meaning);
        table.memory_map = options.memory_map;
        table.notes = notes;
        Ok((table, about))
    }

    /// The unit of times that neither type nor layout says, and why.
    fn tell_unit(&self, time: Pick) -> Result<(TimeUnit, Option<&'static str>)> {
        let rows = self.array(time.array)?.rows().map_or(0, |rows| rows.count);
        array::tell_unit(time.cell.number, rows, |unit| self.sample(time, SAMPLE, unit))
    }

    /// Parts of a pixel that coordinates count: more than one where most cannot be pixels and all fit if divided.
    fn pixel_parts(&self, picks: &[Pick], geometry: Option<Geometry>) -> Result<u16> {
        let get = |column: Column| picks.iter().find(|pick| pick.column == column).filter(|pick| pick.offset == 0);
        let (Some(x), Some(y)) = (get(Column::X), get(Column::Y)) else { return Ok(1) };
        // Smaller types hold no such numbers.
        if members(&Found::Picks(picks.to_vec())).len() < 3 || x.cell.number.bytes() < 2 {
            return Ok(1);
        }
        let unit = |pick: &Pick| if pick.cell.number.is_float() { TimeUnit::Seconds } else { TimeUnit::Microseconds };
        let whole = |pick: &Pick, geometry: Option<u16>| -> Result<Option<bool>> {
            let one = array::sampled_one(pick.cell.number);
            let values = self.sample(*pick, PIXEL_SAMPLE, unit(pick))?;
            let limit = geometry.map_or(WIDEST, i64::from);
            let fits = values.iter().all(|value| (0..limit * i64::from(PARTS) * one).contains(value));
            let from = |least: i64| values.iter().filter(|value| **value >= least * one).count();
            let no_pixels = from(PIXELS) * 100 > values.len();
            // Pixels outside a sensor that is known lie near it, parts of its pixels spread over a range of 32 times its size.
            let spread = from(limit * i64::from(PARTS) / 2) * 100 > values.len();
            Ok(fits.then_some(if geometry.is_some() { from(limit) * 2 > values.len() && (no_pixels || spread) } else { no_pixels }))
        };
        let found = (whole(x, geometry.map(Geometry::width))?, whole(y, geometry.map(Geometry::height))?);
        Ok(if matches!(found, (Some(true), Some(_)) | (Some(_), Some(true))) { PARTS } else { 1 })
    }

    /// Merges the tables of two polarities by time: rows of time, x, y and polarity in double precision.
    ///
    /// ES-ImageNet's columns are y, x, time.
    fn merge(&self, brighter: usize, darker: usize, notes: &mut Problems) -> Result<Part> {
        let mut rows: Vec<[f64; 4]> = Vec::new();
        for (at, polarity) in [(brighter, 1.0), (darker, -1.0)] {
            let array = self.array(at)?;
            let (cell, unit) = array.numbers().ok_or_else(|| bad_shape(array))?;
            let wanted = [(Column::Y, 0), (Column::X, 1), (Column::Timestamp, 2)];
            let picks = wanted.map(|(column, place)| Pick { array: at, column, cell, unit, offset: 0, at: place });
            let parts = self.parts(&picks, notes)?;
            let count = parts.iter().map(|part| part.rows).min().unwrap_or(0) as usize;
            let start = rows.len();
            if (start + count) as u64 > MERGED {
                return Err(Error::new(ErrorKind::Unsupported, format!("`{}` is too large to be merged", array.name))
                    .expecting(format!("at most {MERGED} rows, those of the other polarity among them"))
                    .but_found(format!("{}", start + count)));
            }
            rows.resize(start + count, [0.0, 0.0, 0.0, polarity]);
            for part in &parts {
                let mut own = Vec::new();
                let bytes = match &part.storage {
                    Storage::Plain(data) => {
                        own.resize(count * part.row_bytes, 0);
                        self.source.read_exact_at(&mut own, *data)?;
                        own.as_slice()
                    }
                    Storage::Lazy(bytes, start) => {
                        let bytes = bytes.bytes().map_err(|why| Error::format(format!("`{}` cannot be read: {why}", array.name)))?;
                        bytes.get(*start..).unwrap_or_default()
                    }
                    _ => &[],
                };
                for field in &part.fields {
                    let values = Values { bytes, cell: field.cell, offset: field.offset, stride: part.row_bytes };
                    let place = match field.column {
                        Column::Timestamp => 0,
                        Column::X => 1,
                        _ => 2,
                    };
                    for (row, out) in rows.iter_mut().skip(start).enumerate() {
                        let value = match values.get(row) {
                            Some(Value::Integer(value)) => value as f64,
                            Some(Value::Float(value)) => value,
                            None => f64::NAN,
                        };
                        if let Some(out) = out.get_mut(place) {
                            *out = value;
                        }
                    }
                }
            }
        }
        rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        let cell = Cell { number: Number::F64, big_endian: false };
        let columns = [Column::Timestamp, Column::X, Column::Y, Column::Polarity];
        let fields = columns.into_iter().enumerate().map(|(at, column)| Field { column, cell, offset: at * 8 }).collect();
        Ok(Part {
            name: "pos, neg".to_owned(),
            rows: rows.len() as u64,
            row_bytes: 32,
            element: 32,
            fields,
            storage: Storage::Memory(bytes.into()),
        })
    }

    /// The sensor's size from members `width` and `height`.
    fn size_members(&self) -> Option<Geometry> {
        let get = |name: &str| {
            let at = self
                .list
                .iter()
                .position(|array| array.name == name && array.numbers().is_some_and(|(cell, _)| !cell.number.is_float()))?;
            let (cell, unit) = self.list.get(at)?.numbers()?;
            let pick = Pick { array: at, column: Column::Timestamp, cell, unit, offset: 0, at: 0 };
            u32::try_from(*self.sample(pick, 1, TimeUnit::Microseconds).ok()?.first()?).ok()
        };
        Geometry::new(get("width")?, get("height")?).ok()
    }

    fn no_events(&self, format: Format) -> Error {
        let found: Vec<_> = self.list.iter().take(LISTED).map(|array| format!("`{}` {}", array.name, array.describe())).collect();
        let pickled = self.list.iter().any(Array::is_pickled);
        let error = Error::format(match format {
            Format::Npz => "a zip archive without events in any known layout",
            _ => "an NPY file without events in any known layout",
        })
        .expecting("columns named like x, y, t and p, records with these fields, or a table of four columns")
        .but_found(found.join(", "));
        if pickled { error.hint(PICKLED) } else { error.hint("name the arrays with `path_map`") }
    }
}

/// The event columns among the fields of records, those of records inside them too.
fn collect_fields(fields: &[header::Field], offset: usize, array: usize, picks: &mut Vec<Pick>) {
    for field in fields {
        let offset = offset + field.offset;
        match &field.dtype {
            Dtype::Number { cell, unit, .. } => {
                let column = field.names.iter().find_map(|name| names::column(name));
                picks.extend(column.map(|column| Pick { array, column, cell: *cell, unit: *unit, offset, at: 0 }));
            }
            Dtype::Array { shape, base } => {
                let (Dtype::Number { cell, unit, .. }, Some(role)) = (&**base, field.names.iter().find_map(|name| role(name))) else {
                    continue;
                };
                let pick = |column: Column, at: usize| Pick {
                    array,
                    column,
                    cell: *cell,
                    unit: *unit,
                    offset: offset + at * cell.number.bytes(),
                    at: 0,
                };
                // The product of the extents may not fit before the one that is 0.
                let elements =
                    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |product: usize, extent| product.saturating_mul(*extent)) };
                match (role, elements) {
                    (Role::One(column), 1) => picks.push(pick(column, 0)),
                    (Role::Pixels, 2) => picks.extend([pick(Column::X, 0), pick(Column::Y, 1)]),
                    _ => {}
                }
            }
            Dtype::Record { fields, .. } => collect_fields(fields, offset, array, picks),
            Dtype::Objects | Dtype::Other { .. } => {}
        }
    }
}

/// Name of a stream after its array.
fn camera_name(name: &str) -> String {
    let name = name.trim_matches('/');
    if name.is_empty() { "events".to_owned() } else { name.to_owned() }
}

/// What an array probably has, by its name.
fn kind_of(name: &str) -> StreamKind {
    let name = name.to_ascii_lowercase();
    if name.contains("imu") {
        StreamKind::Imu
    } else if ["image", "frame", "classical"].iter().any(|word| name.contains(word)) {
        StreamKind::Frames
    } else {
        StreamKind::Other
    }
}

fn unknown_stream(name: &str, cameras: &[Camera]) -> Error {
    let names: Vec<_> = cameras.iter().map(|camera| format!("`{}`", camera.name)).collect();
    Error::invalid("no such stream of events").expecting(names.join(", ")).but_found(format!("`{name}`"))
}

fn bad_shape(array: &Array) -> Error {
    Error::new(ErrorKind::Unsupported, format!("`{}` has a shape or type that is no column of events", array.name))
        .expecting("one row an event")
        .but_found(array.describe())
}
