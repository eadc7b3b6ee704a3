//! Which data sets of an HDF5 file are events: the layouts of the public data sets, recognised by content.

use super::meta::{Dataset, Dtype, Kind, Metadata, Value};
use crate::error::{Error, Result};
use crate::format::array::names::{NAMES, column};
use crate::schema::{Column, Geometry, TimeUnit};

/// Groups that a search for events goes through at most, and levels.
const GROUPS: usize = 1000;
const LEVELS: usize = 4;

/// Where the columns of one stream of events are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A data set for each column.
    Separate(Vec<(Column, String)>),
    /// The fields of one compound data set.
    Records(String),
    /// The columns of a table with four columns; their order is seen in the values unless it is given.
    Table(String),
    /// cAER packets in rows of variable length.
    Packets(String),
}

/// A stream of events that was found.
#[derive(Debug, Clone)]
pub(crate) struct Camera {
    /// Name among the streams of the file.
    pub(crate) name: String,
    /// The layout, as the documentation calls it.
    pub(crate) layout: &'static str,
    pub(crate) place: Place,
    /// Unit of times, where the layout and not their type says it.
    pub(crate) unit: Option<TimeUnit>,
    /// What is added to every time.
    pub(crate) offset: Option<Offset>,
    /// Rows by time: path, microseconds of an entry, and whether an entry may point before its time.
    pub(crate) index: Option<RowsByTime>,
    /// What the first column of the sensor is called.
    pub(crate) first_pixel: u16,
    pub(crate) triggers: Option<String>,
}

/// Where the microseconds are that are added to every time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offset {
    Dataset(String),
    /// The value of an attribute.
    Value(i64),
}

/// A table of the file that tells rows by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowsByTime {
    /// One row number a millisecond of stored time.
    Milliseconds(String),
    /// Prophesee's records, one every 2000 microseconds from the first event on.
    Prophesee(String),
}

impl Camera {
    fn new(name: impl Into<String>, layout: &'static str, place: Place) -> Self {
        Self { name: name.into(), layout, place, unit: None, offset: None, index: None, first_pixel: 0, triggers: None }
    }
}

/// A path from the root, of a group and a name in it.
pub(crate) fn join(group: &str, name: &str) -> String {
    format!("{}/{name}", group.trim_end_matches('/'))
}

fn is_dataset(meta: &dyn Metadata, path: &str) -> bool {
    meta.kind(path) == Some(Kind::Dataset)
}

/// The data sets of a group that are named like the columns of events, in any case; `None` unless all four are there.
fn separate(meta: &dyn Metadata, group: &str) -> Option<Vec<(Column, String)>> {
    // Listed only if a name is not there as it is written here.
    let mut listed: Option<Vec<String>> = None;
    let mut columns = Vec::new();
    for (column, names) in NAMES {
        let path = names.iter().map(|name| join(group, name)).find(|path| is_dataset(meta, path)).or_else(|| {
            let listed = listed.get_or_insert_with(|| members(meta, group, Kind::Dataset));
            let found = names.iter().find_map(|name| listed.iter().find(|found| found.eq_ignore_ascii_case(name)));
            found.map(|found| join(group, found))
        });
        columns.push((column, path?));
    }
    Some(columns)
}

/// The `t_offset` of a group or else of the file: a data set or an attribute.
fn offset(meta: &dyn Metadata, group: &str) -> Option<Offset> {
    let attribute = |place: &str| {
        let found = meta.attributes(place).ok()?.into_iter().find(|(name, _)| name == "t_offset")?;
        found.1.as_integer().map(Offset::Value)
    };
    [group, "/"].into_iter().find_map(|place| {
        let path = join(place, "t_offset");
        if is_dataset(meta, &path) { Some(Offset::Dataset(path)) } else { attribute(place) }
    })
}

/// A data set with events in it: records with the four fields, or a table with four columns or four rows.
fn single(meta: &dyn Metadata, path: &str) -> Option<Place> {
    let dataset = is_dataset(meta, path).then(|| meta.dataset(path).ok()).flatten()?;
    match (&dataset.dtype, dataset.shape.as_slice()) {
        (Dtype::Compound { fields, .. }, [_]) => {
            let has = |wanted: Column| fields.iter().any(|field| column(&field.name) == Some(wanted));
            Column::ALL.into_iter().all(has).then(|| Place::Records(path.to_owned()))
        }
        (Dtype::Integer(_) | Dtype::Float { .. }, [_, 4] | [4, _]) => Some(Place::Table(path.to_owned())),
        _ => None,
    }
}

/// The streams of events in a file, in the order in which layouts are looked for.
pub(crate) fn cameras(meta: &dyn Metadata) -> Vec<Camera> {
    let known = prophesee(meta).map(|camera| vec![camera]).or_else(|| events_group(meta).map(|camera| vec![camera]));
    if let Some(known) = known {
        return known;
    }
    for find in [m3ed, mvsec, tables, root, ddd17, tonic, ebssa] {
        let found = find(meta);
        if !found.is_empty() {
            return found;
        }
    }
    anywhere(meta)
}

/// Layout 1: Prophesee HDF5.
fn prophesee(meta: &dyn Metadata) -> Option<Camera> {
    let place = single(meta, "/CD/events").filter(|place| matches!(place, Place::Records(_)))?;
    let mut camera = Camera::new("CD", "Prophesee HDF5", place);
    camera.index = is_dataset(meta, "/CD/indexes").then(|| RowsByTime::Prophesee("/CD/indexes".to_owned()));
    camera.triggers = is_dataset(meta, "/EXT_TRIGGER/events").then(|| "/EXT_TRIGGER/events".to_owned());
    Some(camera)
}

/// Layouts 2-5, 8 and 12, and their like: a group `/events` (or `/raw_events`) with a data set for each column.
fn events_group(meta: &dyn Metadata) -> Option<Camera> {
    ["/events", "/raw_events"].into_iter().find_map(|group| {
        let columns = separate(meta, group)?;
        let mut camera = Camera::new("events", "events/{x, y, t, p}", Place::Separate(columns));
        camera.offset = offset(meta, group);
        camera.index = ["/ms_to_idx", "/events/ms_to_idx"]
            .into_iter()
            .find(|path| is_dataset(meta, path))
            .map(|path| RowsByTime::Milliseconds(path.to_owned()));
        camera.layout = if camera.index.is_some() {
            "DSEC"
        } else if is_dataset(meta, "/events/xs") || is_dataset(meta, "/events/ts") {
            "E2VID"
        } else if is_dataset(meta, "/events/height") {
            "RVT"
        } else {
            camera.layout
        };
        Some(camera)
    })
}

/// Layout 6: M3ED and `EvTTC`: `/prophesee/<camera>/{x, y, t, p}`.
fn m3ed(meta: &dyn Metadata) -> Vec<Camera> {
    let groups = members(meta, "/prophesee", Kind::Group);
    let cameras = groups.into_iter().filter_map(|name| {
        let group = join("/prophesee", &name);
        let mut camera = Camera::new(name, "M3ED", Place::Separate(separate(meta, &group)?));
        camera.offset = offset(meta, &group);
        let index = join(&group, "ms_map_idx");
        camera.index = is_dataset(meta, &index).then_some(RowsByTime::Milliseconds(index));
        Some(camera)
    });
    cameras.collect()
}

/// Layout 9: MVSEC: `/davis/<camera>/events` with columns x, y, t, p.
fn mvsec(meta: &dyn Metadata) -> Vec<Camera> {
    let groups = members(meta, "/davis", Kind::Group);
    let cameras = groups.into_iter().filter_map(|name| {
        let path = join(&join("/davis", &name), "events");
        single(meta, &path).map(|place| Camera::new(name, "MVSEC", place))
    });
    cameras.collect()
}

/// Layouts 10 and 15: one table or one set of records at the root.
fn tables(meta: &dyn Metadata) -> Vec<Camera> {
    let found = ["/events", "/event"].into_iter().find_map(|path| Some((path, single(meta, path)?)));
    found.map(|(path, place)| Camera::new("events", if path == "/event" { "DDD20 exported" } else { "v2e" }, place)).into_iter().collect()
}

/// Layouts 7 and 11: a data set for each column at the root.
fn root(meta: &dyn Metadata) -> Vec<Camera> {
    let camera = separate(meta, "/")
        .map(|columns| Camera { offset: offset(meta, "/"), ..Camera::new("events", "{x, y, t, p}", Place::Separate(columns)) });
    camera.into_iter().collect()
}

/// Layout 14: DDD17 and DDD20 as recorded.
fn ddd17(meta: &dyn Metadata) -> Vec<Camera> {
    let path = "/dvs/data";
    let packets = is_dataset(meta, path) && meta.dataset(path).is_ok_and(|dataset| matches!(dataset.dtype, Dtype::Vlen { .. }));
    packets.then(|| Camera::new("dvs", "DDD17", Place::Packets(path.to_owned()))).into_iter().collect()
}

/// Layout 16: tonic's cache on disk: `/data/<number>`.
fn tonic(meta: &dyn Metadata) -> Vec<Camera> {
    let Ok(entries) = meta.list("/data") else { return Vec::new() };
    let cameras = entries.into_iter().take(GROUPS).filter_map(|entry| {
        let path = join("/data", &entry.name);
        let place = single(meta, &path).or_else(|| separate(meta, &path).map(Place::Separate))?;
        Some(Camera::new(entry.name, "tonic cache", place))
    });
    cameras.collect()
}

/// Layout 17: EBSSA: `/<recording>/TD/{ts, x, y, p}`, counted from 1.
fn ebssa(meta: &dyn Metadata) -> Vec<Camera> {
    let cameras = members(meta, "/", Kind::Group).into_iter().take(GROUPS).filter_map(|name| {
        let columns = separate(meta, &join(&join("/", &name), "TD"))?;
        let mut camera = Camera::new(name, "EBSSA", Place::Separate(columns));
        camera.first_pixel = 1;
        camera.unit = Some(TimeUnit::Microseconds);
        Some(camera)
    });
    cameras.collect()
}

/// Events in any group, by the names of the columns.
fn anywhere(meta: &dyn Metadata) -> Vec<Camera> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    let camera = |path: String| single(meta, &path).map(|place| Camera::new(path.trim_matches('/'), "records", place));
    let mut groups = vec![("/".to_owned(), 0)];
    let mut seen = 0;
    while let Some((group, level)) = groups.pop() {
        seen += 1;
        if seen > GROUPS {
            break;
        }
        if let Some(columns) = separate(meta, &group) {
            let columns = Camera::new(group.trim_matches('/'), "{x, y, t, p}", Place::Separate(columns));
            found.push(Camera { offset: offset(meta, &group), ..columns });
        }
        let Ok(entries) = meta.list(&group) else { continue };
        // Folders of thousands of pictures are not where events are.
        for entry in entries.into_iter().take(GROUPS) {
            let path = join(&group, &entry.name);
            match entry.kind {
                Kind::Group if level < LEVELS => groups.push((path, level + 1)),
                Kind::Dataset if entry.name.to_ascii_lowercase().starts_with("event") => found.extend(camera(path)),
                Kind::Dataset if others.len() < GROUPS => others.push(path),
                _ => {}
            }
        }
    }
    // Records whose fields fit, whatever they are called.
    if found.is_empty() {
        found.extend(others.into_iter().filter_map(camera).filter(|camera| matches!(camera.place, Place::Records(_))));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Names of the members of one kind.
fn members(meta: &dyn Metadata, group: &str, kind: Kind) -> Vec<String> {
    let entries = if meta.kind(group) == Some(Kind::Group) { meta.list(group).unwrap_or_default() } else { Vec::new() };
    entries.into_iter().filter(|entry| entry.kind == kind).map(|entry| entry.name).collect()
}

/// The stream that the caller's paths describe.
pub(crate) fn mapped(meta: &dyn Metadata, paths: &[(String, String)]) -> Result<Camera> {
    let mut columns = Vec::new();
    let mut whole = None;
    for (name, path) in paths {
        let path = join("/", path.trim_start_matches('/'));
        if !is_dataset(meta, &path) {
            return Err(Error::invalid(format!("`path_map` names no data set for `{name}`"))
                .expecting("the path of a data set")
                .but_found(path));
        }
        match column(name) {
            Some(column) => columns.push((column, path)),
            None if name == "events" => whole = Some(path),
            None => {
                return Err(Error::invalid("`path_map` names an unknown column")
                    .expecting("`x`, `y`, `timestamp`, `polarity` or `events`")
                    .but_found(format!("`{name}`")));
            }
        }
    }
    let place = match whole {
        Some(path) if columns.is_empty() => single(meta, &path).ok_or_else(|| {
            Error::invalid(format!("`path_map` names a data set that is no table of events: `{path}`"))
                .expecting("records with fields x, y, t and p, or four columns")
        })?,
        Some(_) => return Err(Error::invalid("`path_map` has `events` and single columns: give one or the other")),
        None => {
            if let Some(missing) = Column::ALL.into_iter().find(|column| !columns.iter().any(|(known, _)| known == column)) {
                return Err(Error::invalid("`path_map` does not have all columns").expecting(format!("a path for `{}`", missing.name())));
            }
            Place::Separate(columns)
        }
    };
    Ok(Camera::new("events", "as the caller says", place))
}

/// The first two of some whole numbers, or the two of a text such as `640x480`.
fn pair(value: &Value) -> Option<[i64; 2]> {
    if let [first, second, ..] = value.integers().as_slice() {
        return Some([*first, *second]);
    }
    let (first, second) = value.as_text()?.split_once(['x', 'X'])?;
    Some([first.trim().parse().ok()?, second.trim().parse().ok()?])
}

/// The size of the sensor, where the file says it.
pub(crate) fn geometry(meta: &dyn Metadata, camera: &Camera) -> Option<Geometry> {
    let parent = match &camera.place {
        Place::Separate(columns) => columns.first().map(|(_, path)| path.as_str()),
        Place::Records(path) | Place::Table(path) | Place::Packets(path) => Some(path.as_str()),
    };
    let group = parent.and_then(|path| path.rsplit_once('/')).map_or("/", |(group, _)| group);
    let from_pair = |width: i64, height: i64| Geometry::new(u32::try_from(width).ok()?, u32::try_from(height).ok()?).ok();
    for place in ["/", group] {
        let attributes = meta.attributes(if place.is_empty() { "/" } else { place }).unwrap_or_default();
        let get = |name: &str| attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        if let Some([width, height]) = get("geometry").and_then(pair) {
            return from_pair(width, height);
        }
        // Rows and columns, as NumPy counts them.
        if let Some([height, width]) = get("sensor_resolution").and_then(pair) {
            return from_pair(width, height);
        }
        if let (Some(width), Some(height)) = (get("width").and_then(Value::as_integer), get("height").and_then(Value::as_integer)) {
            return from_pair(width, height);
        }
    }
    None
}

/// The data sets that say the size of the sensor: one with width and height, or one for each.
pub(crate) fn geometry_datasets(camera: &Camera) -> Vec<[String; 2]> {
    let Place::Separate(columns) = &camera.place else { return Vec::new() };
    let group = columns.first().and_then(|(_, path)| path.rsplit_once('/')).map_or("", |(group, _)| group);
    let resolution = format!("{group}/calib/resolution");
    vec![[resolution.clone(), resolution], [format!("{group}/width"), format!("{group}/height")]]
}

/// Whether a table of four columns has a row for each of them, not for each event.
pub(crate) fn is_on_its_side(dataset: &Dataset) -> bool {
    matches!(dataset.shape.as_slice(), [4, events] if *events != 4)
}

/// A short description of a data set.
pub(crate) fn describe(dataset: &Dataset) -> String {
    let shape: Vec<_> = dataset.shape.iter().map(u64::to_string).collect();
    let filters: Vec<_> = dataset.filters.iter().map(super::filter::describe).collect();
    let chunk = match &dataset.storage {
        super::meta::Storage::Chunked(chunks) => {
            let shape: Vec<_> = chunks.shape.iter().map(u64::to_string).collect();
            format!(", chunks of {}", shape.join(" x "))
        }
        super::meta::Storage::Contiguous { .. } => ", contiguous".to_owned(),
        super::meta::Storage::Compact(_) => ", compact".to_owned(),
        super::meta::Storage::Absent => ", never written".to_owned(),
    };
    let filters = if filters.is_empty() { String::new() } else { format!(", {}", filters.join(" + ")) };
    format!("{} ({}){chunk}{filters}", type_name(&dataset.dtype), shape.join(" x "))
}

/// Name of a type, as NumPy gives it.
fn type_name(dtype: &Dtype) -> String {
    match dtype {
        Dtype::Integer(base) => format!("{}{}", if base.signed { "i" } else { "u" }, base.bytes),
        Dtype::Enum { boolean: true, .. } => "bool".to_owned(),
        Dtype::Enum { base, .. } => format!("enum {}{}", if base.signed { "i" } else { "u" }, base.bytes),
        Dtype::Float { bytes, .. } => format!("f{bytes}"),
        Dtype::Compound { fields, .. } => {
            let fields: Vec<_> = fields.iter().map(|field| format!("{} {}", field.name, type_name(&field.dtype))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Dtype::Array { base, .. } => format!("array of {}", type_name(base)),
        Dtype::Text { .. } | Dtype::VlenText { .. } => "text".to_owned(),
        Dtype::Vlen { base, .. } => format!("sequences of {}", type_name(base)),
        Dtype::Other { name, .. } => name.clone(),
    }
}
